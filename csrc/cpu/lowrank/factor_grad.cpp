// grad = scale * sT drop(x), summed over rows.
//
// Work: rows * cols * rank multiply-adds; bytes: x once (per 112 columns of s). Both operands run along the outputs, so
// rows of s and x already are the panels of an outer-product tile: s is packed once, x is widened block by block or,
// when it is float already, read in place. Rows are split by shape alone and the parts added in order.
#include <algorithm>

#include "cpu/gemm/block.h"
#include "cpu/lowrank/kernels.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kWantedTasks = 32;
constexpr int64_t kSmallestSplit = 256;  // rows

template <class T>
struct GradShape {
  int64_t rows, cols, rank;
  int64_t height, panels;    // panels of s
  int64_t group, groups;     // columns of s one task sums at once
  int64_t block, blocks;     // columns of x of one task
  int64_t split, splits;     // rows of one task

  GradShape(const FactorGradArgs& args, const Kernels<T>& kernels) {
    rows = args.x.rows, cols = args.x.cols, rank = args.s.cols;
    height = balanced_part(rank, kernels.tile_rows), panels = ceil_div(rank, height);
    group = balanced_part(panels, kBlockRows / height) * height, groups = ceil_div(rank, group);
    block = kBlockCols * 4 / int64_t(sizeof(T)), blocks = ceil_div(cols, block);
    const int64_t most = std::max<int64_t>(1, rows / kSmallestSplit);
    const int64_t wanted = std::clamp<int64_t>(ceil_div(kWantedTasks, std::max<int64_t>(1, groups * blocks)), 1, most);
    split = std::max<int64_t>(1, ceil_div(rows, wanted)), splits = std::max<int64_t>(1, ceil_div(rows, split));
  }

  size_t panel_bytes() const { return Workspace::padded(size_t(panels * height * rows) * sizeof(T)); }
  size_t partial_bytes() const { return splits == 1 ? 0 : Workspace::padded(size_t(splits * rank * cols) * sizeof(T)); }
};

}  // namespace

template <class T>
size_t factor_grad_workspace(const FactorGradArgs& args) {
  const GradShape<T> shape(args, selected_kernels<T>());
  return shape.panel_bytes() + shape.partial_bytes();
}

template <class T>
Status factor_grad(const FactorGradArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const GradShape<T> shape(args, kernels);
  const int64_t rows = shape.rows, rank = shape.rank, height = shape.height;
  const size_t bytes = shape.panel_bytes() + shape.partial_bytes();
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_factor_grad", bytes);
  T* const s = workspace.take<T>(shape.panels * height * rows);
  T* const partial = shape.splits > 1 ? workspace.take<T>(shape.splits * rank * shape.cols) : nullptr;
  const DropoutMask mask = args.dropout.active() ? resolve(args.dropout) : DropoutMask{};
  const bool in_place = size_of(args.x.dtype) == sizeof(T) && args.x.col_stride == 1 && !args.dropout.active();

  constexpr int64_t kPackedRows = 512;
  const int64_t row_chunks = ceil_div(rows, kPackedRows);
  run_tasks(context, shape.panels * row_chunks, rows * rank * 8, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / row_chunks, row = task % row_chunks * kPackedRows, col = panel * height;
      T* const to = s + (panel * rows + row) * height;
      const int64_t count = std::min(kPackedRows, rows - row);
      kernels.stage(to, height, source_at(args.s, row, col), count, std::min(height, rank - col), height);
      scale_block(to, count * height, T(args.scale));
    }
  });

  const auto task_body = [&](int64_t first_rank, int64_t col, int64_t part) {
    const int64_t ranks = std::min(shape.group, rank - first_rank), cols = std::min(shape.block, shape.cols - col);
    const int64_t width = kernels.tile_cols, stride = ceil_div(cols, width) * width;
    const int64_t end = std::min(rows, (part + 1) * shape.split);
    alignas(64) T sums[kBlockRows * kBlockCols * 4 / sizeof(T)];
    if (part * shape.split >= end) std::fill(sums, sums + ranks * stride, T(0));
    for (int64_t row = part * shape.split; row < end; row += kStagedDepth) {
      const int64_t depth = std::min(kStagedDepth, end - row);
      const Panels<T> a{s + (first_rank / height * rows + row) * height, rows * height, height};
      // Rows of the staged block are padded apart, so that equal columns of many rows do not meet in one cache set.
      constexpr int64_t kPadding = 16;
      alignas(64) T staged[kStagedDepth * (kBlockCols * 4 / int64_t(sizeof(T)) + kPadding)];
      const int64_t staged_stride = stride + kPadding;
      Panels<T> b{staged, width, staged_stride};
      if (in_place && cols == stride) {
        b = {static_cast<const T*>(source_at(args.x, row, col).data), width, args.x.row_stride};
      } else {
        kernels.stage(staged, staged_stride, source_at(args.x, row, col), depth, cols, stride);
        if (args.dropout.active())
          kernels.drop(staged, staged_stride, depth, cols, uint64_t(row) * uint64_t(shape.cols) + uint64_t(col),
                       uint64_t(shape.cols), mask);
      }
      multiply_block(kernels, a, ranks, b, cols, depth, sums, stride, row > part * shape.split);
    }
    if (partial == nullptr) {
      kernels.finish(sums, stride, ranks, cols, nullptr, nullptr, destination_at(args.grad, first_rank, col));
      return;
    }
    for (int64_t i = 0; i < ranks; ++i)
      std::copy_n(sums + i * stride, cols, partial + (part * rank + first_rank + i) * shape.cols + col);
  };
  run_tasks(context, shape.groups * shape.blocks * shape.splits, rows * shape.cols * rank,
            [&](int64_t begin, int64_t end) {
              for (int64_t task = begin; task < end; ++task) {
                const int64_t part = task % shape.splits, block = task / shape.splits % shape.blocks;
                task_body(task / shape.splits / shape.blocks * shape.group, block * shape.block, part);
              }
            });
  if (partial == nullptr) return {};

  run_tasks(context, rank, rank * shape.cols * shape.splits * 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* const total = partial + row * shape.cols;
      for (int64_t part = 1; part < shape.splits; ++part) {
        const T* const more = partial + (part * rank + row) * shape.cols;
        for (int64_t j = 0; j < shape.cols; ++j) total[j] += more[j];
      }
      kernels.finish(total, shape.cols, 1, shape.cols, nullptr, nullptr, destination_at(args.grad, row, 0));
    }
  });
  return {};
}

template Status factor_grad<float>(const FactorGradArgs&, const Context&);
template Status factor_grad<double>(const FactorGradArgs&, const Context&);
template size_t factor_grad_workspace<float>(const FactorGradArgs&);
template size_t factor_grad_workspace<double>(const FactorGradArgs&);

}  // namespace lrk::cpu
