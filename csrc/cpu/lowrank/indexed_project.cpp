// s_t = scales[i] * x_t downs[i]T for the rows t of every adapter i, and the product itself beside it when wanted.
//
// Work: rows * in * rank multiply-adds; bytes: x once, and the factors of those adapters that have rows. A task is a
// tile of rows of one adapter and a group of its ranks. Rows of x are gathered as blocks of T that stay in the first
// level caches. With few rows in a tile (decoding: one) down is streamed past them in its own dtype; with many, rows of
// x are streamed past down, widened once a tile.
#include "cpu/lowrank/indexed.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kFewRows = 16;
constexpr int64_t kRankGroup = 64;    // columns of s a task keeps sums for
constexpr int64_t kDepthChunk = 512;
constexpr int64_t kStagedRows = 32;

template <class T>
class TileOfProject {
 public:
  TileOfProject(const IndexedProjectArgs& args, const Routing& routing, const RowTile& tile, int64_t col)
      : args_(args),
        kernels_(selected_kernels<T>()),
        tile_(tile),
        order_(routing.order + tile.first),
        col_(col),
        width_(std::min(kRankGroup, args.s.cols - col)),
        ranks_(std::clamp<int64_t>(tile.rank - col, 0, width_)) {}

  void run() {
    std::fill(sums_, sums_ + tile_.rows * width_, T(0));
    if (ranks_ > 0) {
      const MatrixView down = args_.downs.at(tile_.segment);
      const bool streamed = tile_.rows <= kFewRows && down.col_stride == 1;
      for (int64_t k = 0; k < args_.x.cols; k += kDepthChunk) {
        const int64_t depth = std::min(kDepthChunk, args_.x.cols - k);
        streamed ? stream_down(down, k, depth) : stream_rows(down, k, depth);
      }
    }
    finish();
  }

 private:
  void stream_down(const MatrixView& down, int64_t k, int64_t depth) {
    gather_rows(kernels_, args_.x, order_, tile_.rows, k, depth, block_, kDepthChunk);
    dot_block(kernels_, source_at(down, col_, k), ranks_, block_, kDepthChunk, tile_.rows, depth, sums_, 1, width_,
              true);
  }

  void stream_rows(const MatrixView& down, int64_t k, int64_t depth) {
    const T* resident = static_cast<const T*>(source_at(down, col_, k).data);
    int64_t stride = down.row_stride;
    if (down.col_stride != 1 || size_of(down.dtype) != sizeof(T)) {
      kernels_.stage(widened_, kDepthChunk, source_at(down, col_, k), ranks_, depth, depth);
      resident = widened_, stride = kDepthChunk;
    }
    for (int64_t row = 0; row < tile_.rows; row += kStagedRows) {
      const int64_t count = std::min(kStagedRows, tile_.rows - row);
      gather_rows(kernels_, args_.x, order_ + row, count, k, depth, block_, kDepthChunk);
      dot_block(kernels_, {block_, kSumDType<T>, kDepthChunk, 1}, count, resident, stride, ranks_, depth,
                sums_ + row * width_, width_, 1, true);
    }
  }

  void finish() {
    if (args_.projected.present())
      scatter_rows<T>(kernels_, sums_, width_, order_, tile_.rows, col_, width_, nullptr, args_.projected);
    if (args_.scales.present() && ranks_ > 0) {
      T scale;
      kernels_.stage(&scale, 1, source_at(args_.scales, tile_.segment, 0), 1, 1, 1);
      for (int64_t row = 0; row < tile_.rows; ++row) scale_block(sums_ + row * width_, ranks_, scale);
    }
    scatter_rows<T>(kernels_, sums_, width_, order_, tile_.rows, col_, width_, nullptr, args_.s);
  }

  const IndexedProjectArgs& args_;
  const Kernels<T>& kernels_;
  const RowTile& tile_;
  const int32_t* const order_;
  const int64_t col_, width_, ranks_;
  alignas(64) T sums_[kBlockRows * kRankGroup];
  alignas(64) T block_[kStagedRows * kDepthChunk];
  alignas(64) T widened_[kRankGroup * kDepthChunk];
};

}  // namespace

template <class T>
Status indexed_project(const IndexedProjectArgs& args, const Routing& routing, const Context& context) {
  const int64_t groups = ceil_div(args.s.cols, kRankGroup);
  run_tasks(context, routing.tiles_bound * groups, args.x.rows * args.x.cols * args.s.cols,
            [&](int64_t begin, int64_t end) {
              for (int64_t task = begin; task < end; ++task)
                TileOfProject<T>(args, routing, routing.tiles[task / groups], task % groups * kRankGroup).run();
            });
  return {};
}

template Status indexed_project<float>(const IndexedProjectArgs&, const Routing&, const Context&);
template Status indexed_project<double>(const IndexedProjectArgs&, const Routing&, const Context&);

}  // namespace lrk::cpu
