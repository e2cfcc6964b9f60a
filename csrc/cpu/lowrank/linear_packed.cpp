// y = [scale s | x] [up | weight]T + base + bias: the low-rank term is `rank` more steps of the depth loop into the
// same accumulators, so y is written once.
//
// Work: rows * out * (in + rank) multiply-adds; bytes: x twice (packed once), the weight once per 896 rows. Operands of
// any dtype and stride become panels of T that a register tile reads with unit stride. Panels of x are packed for all
// tasks; a task packs its 64 columns of the weight chunk by chunk, into a buffer that never leaves its second level
// cache, and passes all its rows under each chunk. The block of C stays there too; one pass over it adds base and bias
// and rounds. A dropout mask falls on the low-rank term alone, so with dropout that term is chunks of its own.
#include <algorithm>

#include "cpu/lowrank/kernels.h"
#include "cpu/lowrank/packed_panels.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTaskCols = 64;
constexpr int64_t kTaskRows = 896;
constexpr int64_t kWantedTasks = 16;
/// x is packed in pieces of about this size, to stay in the last level cache.
constexpr int64_t kPackedBytes = 8 << 20;

template <class T>
struct PackedShape {
  int64_t rows, out, rank, depth;
  int64_t height, width;           // of a panel of x and of the weight
  int64_t task_rows, piece_rows;   // whole panels

  PackedShape(const LinearArgs& args, const Kernels<T>& kernels) {
    rows = args.y.rows, out = args.y.cols, rank = args.s.cols, depth = rank + args.x.cols;
    height = balanced_part(rows, kernels.tile_rows), width = kernels.tile_cols;
    const int64_t panels = ceil_div(rows, height);
    int64_t task_panels = balanced_part(panels, std::max<int64_t>(1, kTaskRows * 4 / int64_t(sizeof(T)) / height));
    // Work for more threads, by shape alone, though the weight is then packed more than once.
    while (ceil_div(panels, task_panels) * ceil_div(out, kTaskCols) < kWantedTasks && task_panels > 8)
      task_panels = ceil_div(task_panels, 2);
    task_rows = task_panels * height;
    const int64_t tasks = ceil_div(rows, task_rows);
    const int64_t task_bytes = task_rows * std::max<int64_t>(depth, 1) * int64_t(sizeof(T));
    piece_rows = balanced_part(tasks, std::max<int64_t>(1, kPackedBytes / task_bytes)) * task_rows;
  }

  size_t bytes(bool bias) const {
    return Workspace::padded(size_t(std::min(piece_rows, ceil_div(rows, height) * height) * depth) * sizeof(T)) +
           (bias ? Workspace::padded(size_t(out) * sizeof(T)) : 0);
  }
};

template <class T>
class PackedLinear {
 public:
  PackedLinear(const LinearArgs& args, const Context& context)
      : args_(args), context_(context), kernels_(selected_kernels<T>()), shape_(args, kernels_) {}

  Status run() {
    const size_t bytes = shape_.bytes(args_.bias.present());
    Workspace workspace(bytes);
    if (!workspace.allocate(context_)) return out_of_memory("lowrank_linear", bytes);
    bias_ = stage_bias(kernels_, args_.bias, workspace);
    a_ = workspace.take<T>(std::min(shape_.piece_rows, ceil_div(shape_.rows, shape_.height) * shape_.height) *
                           shape_.depth);
    if (args_.dropout.active()) mask_ = resolve(args_.dropout);
    for (int64_t row = 0; row < shape_.rows; row += shape_.piece_rows) {
      const int64_t rows = std::min(shape_.piece_rows, shape_.rows - row);
      pack(row, rows);
      multiply(row, rows);
    }
    return {};
  }

 private:
  void pack(int64_t row, int64_t rows) {
    run_tasks(context_, ceil_div(rows, shape_.height), rows * shape_.depth * 4, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t first = panel * shape_.height;
        pack_panel(kernels_, args_.s, args_.x, row + first, std::min(shape_.height, rows - first), shape_.height, 0,
                   shape_.depth, T(args_.scale), a_ + first * shape_.depth);
      }
    });
  }

  void multiply(int64_t row, int64_t rows) {
    const int64_t row_tasks = ceil_div(rows, shape_.task_rows), col_tasks = ceil_div(shape_.out, kTaskCols);
    run_tasks(context_, row_tasks * col_tasks, rows * shape_.out * shape_.depth, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % row_tasks * shape_.task_rows, col = task / row_tasks * kTaskCols;
        block(row, first, std::min(shape_.task_rows, rows - first), col, std::min(kTaskCols, shape_.out - col));
      }
    });
  }

  /// The block of y at (row + first, col); `first` counts from the packed piece, which begins at `row`.
  void block(int64_t row, int64_t first, int64_t rows, int64_t col, int64_t cols) const {
    alignas(64) T c[kTaskRows * kTaskCols * 4 / sizeof(T)];
    alignas(64) T packed[kDepthChunk * kTaskCols];
    const int64_t depth = shape_.depth, masked = args_.dropout.active() ? shape_.rank : 0;
    int64_t chunk = balanced_part(masked > 0 ? masked : depth, kDepthChunk);
    for (int64_t k = 0; k < depth;) {
      const int64_t length = std::min(chunk, (k < masked ? masked : depth) - k);
      for (int64_t j = 0; j < cols; j += shape_.width)
        pack_panel(kernels_, args_.up, args_.weight, col + j, std::min(shape_.width, cols - j), shape_.width, k, length,
                   T(1), packed + j * length);
      const Panels<T> b{packed, length * shape_.width, shape_.width};
      const Panels<T> a{a_ + first * depth + k * shape_.height, depth * shape_.height, shape_.height};
      multiply_block(kernels_, a, rows, b, cols, length, c, kTaskCols, k > 0);
      k += length;
      if (k == masked) {
        kernels_.drop(c, kTaskCols, rows, cols, uint64_t(row + first) * uint64_t(shape_.out) + uint64_t(col),
                      uint64_t(shape_.out), mask_);
        chunk = balanced_part(depth - k, kDepthChunk);
      }
    }
    Source base{};
    if (args_.base.present()) base = source_at(args_.base, row + first, col);
    kernels_.finish(c, kTaskCols, rows, cols, args_.base.present() ? &base : nullptr,
                    bias_ == nullptr ? nullptr : bias_ + col, destination_at(args_.y, row + first, col));
  }

  const LinearArgs& args_;
  const Context& context_;
  const Kernels<T>& kernels_;
  const PackedShape<T> shape_;
  DropoutMask mask_{};
  T* a_ = nullptr;
  T* bias_ = nullptr;
};

}  // namespace

template <class T>
Status linear_packed(const LinearArgs& args, const Context& context) {
  return PackedLinear<T>(args, context).run();
}

template <class T>
size_t linear_packed_workspace(const LinearArgs& args) {
  return PackedShape<T>(args, selected_kernels<T>()).bytes(args.bias.present());
}

template Status linear_packed<float>(const LinearArgs&, const Context&);
template Status linear_packed<double>(const LinearArgs&, const Context&);
template size_t linear_packed_workspace<float>(const LinearArgs&);
template size_t linear_packed_workspace<double>(const LinearArgs&);

}  // namespace lrk::cpu
