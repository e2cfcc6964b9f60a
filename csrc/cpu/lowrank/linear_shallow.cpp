// y = base + [scale s | x] [up | weight]T + bias where rank + in is small: above all expand, where there is no weight.
//
// Bytes: y once, base once, and nothing else that grows with rows * out, so the whole is about as fast as copying base
// to y. Both operands are packed once, whole; a tile's sums go through a strip of a few KB in the first level cache
// straight to y, row panel by row panel along y's rows. `base` may be y itself.
#include <algorithm>

#include "cpu/lowrank/kernels.h"
#include "cpu/lowrank/packed_panels.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kStripCols = 256;
constexpr int64_t kPanelsPerTask = 4;
/// s and x are packed in pieces of about this size.
constexpr int64_t kPackedBytes = 4 << 20;

template <class T>
struct ShallowShape {
  int64_t rows, out, rank, depth;
  int64_t height, width, strip;
  int64_t piece_rows;

  ShallowShape(const LinearArgs& args, const Kernels<T>& kernels) {
    rows = args.y.rows, out = args.y.cols, rank = args.s.cols, depth = rank + args.x.cols;
    height = balanced_part(rows, kernels.tile_rows), width = kernels.tile_cols;
    strip = balanced_part(ceil_div(out, width), kStripCols / width) * width;
    const int64_t piece = kPackedBytes / (std::max<int64_t>(depth, 1) * int64_t(sizeof(T)) * height);
    piece_rows = balanced_part(ceil_div(rows, height), std::max<int64_t>(1, piece)) * height;
  }

  int64_t a_count() const { return piece_rows * depth; }
  int64_t b_count() const { return ceil_div(out, width) * width * depth; }
  size_t bytes(bool bias) const {
    return Workspace::padded(size_t(a_count()) * sizeof(T)) + Workspace::padded(size_t(b_count()) * sizeof(T)) +
           (bias ? Workspace::padded(size_t(out) * sizeof(T)) : 0);
  }
};

}  // namespace

template <class T>
Status linear_shallow(const LinearArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const ShallowShape<T> shape(args, kernels);
  const int64_t out = shape.out, depth = shape.depth, height = shape.height, width = shape.width;
  const size_t bytes = shape.bytes(args.bias.present());
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_linear", bytes);
  T* const bias = stage_bias(kernels, args.bias, workspace);
  T* const a = workspace.take<T>(shape.a_count());
  T* const b = workspace.take<T>(shape.b_count());
  const bool masked = args.dropout.active() && shape.rank > 0;
  const DropoutMask mask = masked ? resolve(args.dropout) : DropoutMask{};

  const auto strip_body = [&](int64_t row, const T* a_panel, int64_t rows, int64_t col, int64_t cols) {
    alignas(64) T c[16 * kStripCols];
    const Panels<T> b_panels{b + col * depth, depth * width, width};
    if (depth == 0) std::fill(c, c + rows * shape.strip, T(0));
    int64_t done = 0;
    if (masked) {
      multiply_block(kernels, {a_panel, 0, height}, rows, b_panels, cols, shape.rank, c, shape.strip, false);
      kernels.drop(c, shape.strip, rows, cols, uint64_t(row) * uint64_t(out) + uint64_t(col), uint64_t(out), mask);
      done = shape.rank;
    }
    if (done < depth)
      multiply_block(kernels, {a_panel + done * height, 0, height}, rows,
                     {b_panels.data + done * width, b_panels.panel_stride, width}, cols, depth - done, c, shape.strip,
                     done > 0);
    Source base{};
    if (args.base.present()) base = source_at(args.base, row, col);
    kernels.finish(c, shape.strip, rows, cols, args.base.present() ? &base : nullptr,
                   bias == nullptr ? nullptr : bias + col, destination_at(args.y, row, col));
  };

  for (int64_t row = 0; row < shape.rows; row += shape.piece_rows) {
    const int64_t rows = std::min(shape.piece_rows, shape.rows - row);
    const int64_t a_panels = ceil_div(rows, height), b_panels = row > 0 ? 0 : ceil_div(out, width);
    run_tasks(context, a_panels + b_panels, (rows + out) * depth * 4, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t panel = task < b_panels ? task : task - b_panels;
        if (task < b_panels) {
          pack_panel(kernels, args.up, args.weight, panel * width, std::min(width, out - panel * width), width, 0,
                     depth, T(1), b + panel * width * depth);
        } else {
          pack_panel(kernels, args.s, args.x, row + panel * height, std::min(height, rows - panel * height), height, 0,
                     depth, T(args.scale), a + panel * height * depth);
        }
      }
    });
    // Few row panels are cut along the columns as well.
    const int64_t strips = ceil_div(out, shape.strip), groups = ceil_div(a_panels, kPanelsPerTask);
    run_tasks(context, groups * strips, rows * out * (depth + 16), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t col = task % strips * shape.strip, first = task / strips * kPanelsPerTask;
        for (int64_t panel = first; panel < std::min(first + kPanelsPerTask, a_panels); ++panel)
          strip_body(row + panel * height, a + panel * height * depth, std::min(height, rows - panel * height), col,
                     std::min(shape.strip, out - col));
      }
    });
  }
  return {};
}

template <class T>
size_t linear_shallow_workspace(const LinearArgs& args) {
  return ShallowShape<T>(args, selected_kernels<T>()).bytes(args.bias.present());
}

template Status linear_shallow<float>(const LinearArgs&, const Context&);
template Status linear_shallow<double>(const LinearArgs&, const Context&);
template size_t linear_shallow_workspace<float>(const LinearArgs&);
template size_t linear_shallow_workspace<double>(const LinearArgs&);

}  // namespace lrk::cpu
