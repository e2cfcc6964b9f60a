// y_t = base_t + s_t ups[i]T + bias for the rows t of every adapter i; x weightT, when there is a weight, is the base,
// in float, so that y is rounded once.
//
// Bytes: base and y once, and the factors of those adapters that have rows. A task is a tile of rows of one adapter and
// a strip of columns, whose sums start as base and never leave the second level cache. With few rows in a tile
// (decoding: one) rows of up are streamed past s in place; with many, the strip of up is packed once a tile.
#include <limits>

#include "cpu/lowrank/indexed.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kFewRows = 4;
constexpr int64_t kStripCols = 256;
constexpr int64_t kDepthChunk = 128;

template <class T>
class TileOfLinear {
 public:
  TileOfLinear(const IndexedLinearArgs& args, const Routing& routing, const RowTile& tile, int64_t col)
      : args_(args),
        kernels_(selected_kernels<T>()),
        tile_(tile),
        order_(routing.order + tile.first),
        col_(col),
        cols_(std::min(kStripCols, args.y.cols - col)),
        out_of_range_(tile.segment > routing.adapters) {}

  void run(const T* bias) {
    if (out_of_range_ || !args_.base.present())
      std::fill(sums_, sums_ + tile_.rows * kStripCols, out_of_range_ ? std::numeric_limits<T>::quiet_NaN() : T(0));
    else
      gather_rows(kernels_, args_.base, order_, tile_.rows, col_, cols_, sums_, kStripCols);
    if (tile_.rank > 0) {
      const MatrixView up = args_.ups.at(tile_.segment);
      const bool in_place = tile_.rows <= kFewRows && up.col_stride == 1;
      for (int64_t k = 0; k < tile_.rank; k += kDepthChunk) {
        const int64_t depth = std::min<int64_t>(kDepthChunk, tile_.rank - k);
        gather_rows(kernels_, args_.s, order_, tile_.rows, k, depth, s_, kDepthChunk);
        in_place ? stream_up(up, k, depth) : multiply_packed(up, k, depth);
      }
    }
    scatter_rows(kernels_, sums_, kStripCols, order_, tile_.rows, col_, cols_, bias, args_.y);
  }

 private:
  void stream_up(const MatrixView& up, int64_t k, int64_t depth) {
    dot_block(kernels_, source_at(up, col_, k), cols_, s_, kDepthChunk, tile_.rows, depth, sums_, 1, kStripCols, true);
  }

  void multiply_packed(const MatrixView& up, int64_t k, int64_t depth) {
    const int64_t width = kernels_.tile_cols, padded = ceil_div(cols_, width) * width;
    kernels_.stage(up_, kStripCols, source_at(up.transposed(), k, col_), depth, cols_, padded);
    const int64_t height = balanced_part(tile_.rows, kernels_.tile_rows);
    for (int64_t row = 0; row < tile_.rows; row += height)
      kernels_.stage(panels_ + row * depth, height, {s_ + row * kDepthChunk, kSumDType<T>, 1, kDepthChunk}, depth,
                     std::min<int64_t>(height, tile_.rows - row), height);
    multiply_block<T>(kernels_, {panels_, depth * height, height}, tile_.rows, {up_, width, kStripCols}, cols_, depth,
                      sums_, kStripCols, true);
  }

  const IndexedLinearArgs& args_;
  const Kernels<T>& kernels_;
  const RowTile& tile_;
  const int32_t* const order_;
  const int64_t col_, cols_;
  const bool out_of_range_;
  // Whole panels may reach past the rows by less than one row a panel.
  alignas(64) T sums_[(kBlockRows + kBlockRows / 4) * kStripCols];
  alignas(64) T s_[kBlockRows * kDepthChunk];
  alignas(64) T panels_[(kBlockRows + kBlockRows / 4) * kDepthChunk];
  alignas(64) T up_[kDepthChunk * kStripCols];
};

}  // namespace

template <class T>
Status indexed_linear(const IndexedLinearArgs& args, const Routing& routing, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t out = args.y.cols, strips = ceil_div(out, kStripCols);
  T* bias = nullptr;
  if (args.bias.present()) {
    const size_t bytes = Workspace::padded(size_t(out) * sizeof(T));
    Workspace workspace(bytes);
    if (!workspace.allocate(context)) return out_of_memory("lowrank_linear_indexed", bytes);
    bias = workspace.take<T>(out);
    kernels.stage(bias, out, source_at(args.bias, 0, 0), 1, out, out);
  }
  run_tasks(context, routing.tiles_bound * strips, args.y.rows * out * (args.s.cols + 16),
            [&](int64_t begin, int64_t end) {
              for (int64_t task = begin; task < end; ++task) {
                const int64_t col = task % strips * kStripCols;
                TileOfLinear<T>(args, routing, routing.tiles[task / strips], col)
                    .run(bias == nullptr ? nullptr : bias + col);
              }
            });
  return {};
}

template Status indexed_linear<float>(const IndexedLinearArgs&, const Routing&, const Context&);
template Status indexed_linear<double>(const IndexedLinearArgs&, const Routing&, const Context&);

}  // namespace lrk::cpu
