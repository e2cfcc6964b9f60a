// grads[i] = scales[i] * the sum of s_tT x_t over the rows t of adapter i, in increasing t.
//
// Work: rows * cols * rank multiply-adds; bytes: x once, and every gradient written once, zeros for adapters without
// rows. s is gathered once, in float, sorted: its rows already are the outer-product tiles' broadcast operand. A task is
// an adapter and a block of columns; it gathers its part of x chunk by chunk into a block near the first level cache.
#include "cpu/lowrank/indexed.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kGatheredRows = 128;  // of s, one task
constexpr int64_t kWantedTasks = 32;
/// Rows of a gathered block are padded apart, so that equal columns of many rows do not meet in one cache set.
constexpr int64_t kPadding = 16;

/// Columns of one task: fewer where a few adapters would leave threads without work. By shape alone.
template <class T>
int64_t block_cols(int64_t cols, int64_t adapters) {
  int64_t block = kBlockCols * 4 / int64_t(sizeof(T));
  while (block > 64 && ceil_div(cols, block) * adapters < kWantedTasks) block /= 2;
  return block;
}

template <class T>
class GradOfAdapter {
 public:
  GradOfAdapter(const IndexedFactorGradArgs& args, const Routing& routing, const T* s, int64_t adapter)
      : args_(args),
        kernels_(selected_kernels<T>()),
        order_(routing.order),
        s_(s),
        rank_(routing.ranks[adapter]),
        begin_(routing.offsets[adapter]),
        end_(routing.offsets[adapter + 1]),
        grad_(args.grads.at(adapter)) {
    if (args.scales.present()) kernels_.stage(&scale_, 1, source_at(args.scales, adapter, 0), 1, 1, 1);
  }

  void run(int64_t col, int64_t cols) {
    for (int64_t first = 0; first < grad_.rows; first += kBlockRows) {
      const int64_t ranks = std::min(kBlockRows, grad_.rows - first);
      const int64_t counted = begin_ == end_ ? 0 : std::clamp<int64_t>(rank_ - first, 0, ranks);
      const int64_t stride = ceil_div(cols, kernels_.tile_cols) * kernels_.tile_cols;
      for (int64_t row = begin_; row < end_ && counted > 0; row += kStagedDepth)
        add(first, counted, row, std::min(kStagedDepth, end_ - row), col, cols, stride);
      scale_block(sums_, counted * stride, scale_);
      std::fill(sums_ + counted * stride, sums_ + ranks * stride, T(0));
      kernels_.finish(sums_, stride, ranks, cols, nullptr, nullptr, destination_at(grad_, first, col));
    }
  }

 private:
  void add(int64_t first, int64_t ranks, int64_t row, int64_t depth, int64_t col, int64_t cols, int64_t stride) {
    gather_rows(kernels_, args_.x, order_ + row, depth, col, cols, block_, stride + kPadding);
    if (cols < stride)
      for (int64_t k = 0; k < depth; ++k)
        std::fill(block_ + k * (stride + kPadding) + cols, block_ + k * (stride + kPadding) + stride, T(0));
    const int64_t height = balanced_part(ranks, kernels_.tile_rows), rank = args_.s.cols;
    for (int64_t i = 0; i < ranks; i += height)
      for (int64_t j = 0; j < cols; j += kernels_.tile_cols)
        kernels_.multiply(std::min(height, ranks - i), depth, s_ + row * rank + first + i, rank, block_ + j,
                          stride + kPadding, sums_ + i * stride + j, stride, row > begin_, block_ + j, 0);
  }

  const IndexedFactorGradArgs& args_;
  const Kernels<T>& kernels_;
  const int32_t* const order_;
  const T* const s_;
  const int64_t rank_, begin_, end_;
  const MutableMatrixView grad_;
  T scale_ = T(1);
  alignas(64) T sums_[kBlockRows * kBlockCols * 4 / sizeof(T)];
  alignas(64) T block_[kStagedDepth * (kBlockCols * 4 / int64_t(sizeof(T)) + kPadding)];
};

}  // namespace

template <class T>
size_t indexed_factor_grad_workspace(const IndexedFactorGradArgs& args) {
  return Workspace::padded(size_t(args.s.rows * args.s.cols) * sizeof(T));
}

template <class T>
Status indexed_factor_grad(const IndexedFactorGradArgs& args, const Routing& routing, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t rows = args.s.rows, rank = args.s.cols, cols = args.x.cols;
  const size_t bytes = indexed_factor_grad_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_linear_indexed", bytes);
  T* const s = workspace.take<T>(rows * rank);
  run_tasks(context, ceil_div(rows, kGatheredRows), rows * rank * 4, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task * kGatheredRows;
      gather_rows(kernels, args.s, routing.order + row, std::min(kGatheredRows, rows - row), 0, rank, s + row * rank,
                  rank);
    }
  });
  const int64_t block = block_cols<T>(cols, args.grads.count), blocks = ceil_div(cols, block);
  run_tasks(context, args.grads.count * blocks, (rows + args.grads.count) * cols * rank,
            [&](int64_t begin, int64_t end) {
              for (int64_t task = begin; task < end; ++task) {
                const int64_t col = task % blocks * block;
                GradOfAdapter<T>(args, routing, s, task / blocks).run(col, std::min(block, cols - col));
              }
            });
  return {};
}

template Status indexed_factor_grad<float>(const IndexedFactorGradArgs&, const Routing&, const Context&);
template Status indexed_factor_grad<double>(const IndexedFactorGradArgs&, const Routing&, const Context&);
template size_t indexed_factor_grad_workspace<float>(const IndexedFactorGradArgs&);
template size_t indexed_factor_grad_workspace<double>(const IndexedFactorGradArgs&);

}  // namespace lrk::cpu
