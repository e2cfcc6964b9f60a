// sparse24 masks: weights come in as float or double, a strip of rows at a time, and a byte an entry goes out.
//
// Bytes: the weight once and the mask once; the arithmetic of a transposable mask stays below what those take only with
// a tile in every lane (mask_impl.h).
#include "cpu/sparse24/sparse24.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/gemm/block.h"
#include "cpu/sparse24/kernels.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kStripCols = 512;  // of four rows, which stay in the first level cache
constexpr int64_t kTaskStrips = 16;

/// The largest entries in turn, where row and column have room.
template <class T>
void greedy_tile(const T* weights, int64_t stride, uint8_t* mask, int64_t mask_stride) {
  int order[16];
  for (int i = 0; i < 16; ++i) order[i] = i;
  const auto at = [&](int i) { return weights[i / 4 * stride + i % 4]; };
  std::stable_sort(order, order + 16, [&](int a, int b) { return at(a) > at(b); });
  int rows[4] = {}, columns[4] = {};
  for (const int entry : order) {
    const int row = entry / 4, column = entry % 4;
    const bool room = rows[row] < 2 && columns[column] < 2;
    mask[row * mask_stride + column] = room;
    rows[row] += room, columns[column] += room;
  }
}

/// Of a column's entries that `mask` keeps, all but the two largest go.
template <class T>
void prune_columns(const T* weights, int64_t stride, uint8_t* mask, int64_t mask_stride) {
  for (int column = 0; column < 4; ++column) {
    const auto at = [&](int row) { return weights[row * stride + column]; };
    uint8_t kept[4], left[4];
    for (int row = 0; row < 4; ++row) kept[row] = mask[row * mask_stride + column];
    for (int row = 0; row < 4; ++row) {
      int better = 0;
      for (int other = 0; other < 4; ++other)
        better += other != row && kept[other] && (at(other) > at(row) || (at(other) == at(row) && other < row));
      left[row] = kept[row] && better < 2;
    }
    for (int row = 0; row < 4; ++row) mask[row * mask_stride + column] = left[row];
  }
}

/// |w| as the comparisons see it: what is not finite is infinite.
template <class T>
void to_magnitudes(T* weights, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    weights[i] = std::isfinite(weights[i]) ? std::abs(weights[i]) : std::numeric_limits<T>::infinity();
}

/// The mask of a strip of rows (four, unless kRows: any number) and `cols` columns, staged `kStripCols` apart.
template <class T>
void mask_strip(Sparse24Mask kind, T* weights, int64_t rows, int64_t cols, uint8_t* mask, int64_t mask_stride) {
  const Sparse24MaskKernels<T>& kernels = selected_sparse24_mask_kernels<T>();
  if (kind == Sparse24Mask::kTransposable)
    return kernels.transposable(weights, kStripCols, cols / 4, mask, mask_stride);
  if (kind != Sparse24Mask::kGreedy) {
    for (int64_t row = 0; row < rows; ++row)
      kernels.rows(weights + row * kStripCols, cols / 4, mask + row * mask_stride);
  }
  if (kind == Sparse24Mask::kRows) return;
  to_magnitudes(weights, rows * kStripCols);
  for (int64_t col = 0; col < cols; col += 4) {
    if (kind == Sparse24Mask::kGreedy) greedy_tile(weights + col, kStripCols, mask + col, mask_stride);
    else prune_columns(weights + col, kStripCols, mask + col, mask_stride);
  }
}

}  // namespace

template <class T>
Status sparse24_mask(const Sparse24MaskArgs& args, const Context& context) {
  const Kernels<T>& gemm = selected_kernels<T>();
  const int64_t out = args.weight.rows, in = args.weight.cols, strips = ceil_div(out, 4);
  run_tasks(context, ceil_div(strips, kTaskStrips), out * in, [&](int64_t begin, int64_t end) {
    alignas(64) T staged[4 * kStripCols] = {};
    for (int64_t row = begin * kTaskStrips * 4; row < std::min(out, end * kTaskStrips * 4); row += 4) {
      const int64_t rows = std::min<int64_t>(4, out - row);
      for (int64_t col = 0; col < in; col += kStripCols) {
        const int64_t cols = std::min(kStripCols, in - col);
        gemm.stage(staged, kStripCols, source_at(args.weight, row, col), rows, cols, cols);
        mask_strip(args.kind, staged, rows, cols, args.mask + row * in + col, in);
      }
    }
  });
  return {};
}

template Status sparse24_mask<float>(const Sparse24MaskArgs&, const Context&);
template Status sparse24_mask<double>(const Sparse24MaskArgs&, const Context&);

}  // namespace lrk::cpu
