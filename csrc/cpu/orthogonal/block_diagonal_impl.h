// The products of block_diagonal_kernels.h, written once over the vector types of vector_<isa>.h.
//
// A tile of y stays in registers from the first product to the rounding: per k it loads a panel's vectors of r and
// broadcasts a number of every row, so that with 14 rows and two vectors of AVX-512 the multiply-adds are the bottleneck.
#pragma once

#include <algorithm>

#include "cpu/gemm/stage_impl.h"
#include "cpu/orthogonal/block_diagonal_kernels.h"

namespace lrk::cpu {
namespace {

/// `vectors` vectors of columns, the last of which has `last` of its lanes in y.
template <class Vector, int rows, int vectors>
void apply_tile(int64_t depth, const typename Vector::Scalar* x, int64_t chunk_stride,
                const typename Vector::Scalar* r, int64_t r_stride, int last, const Destination& y, int64_t col) {
  constexpr int L = Vector::kLanes;
  constexpr int64_t kAhead = 16;  // rows of r, from the second level cache
  typename Vector::Register sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[i][v] = Vector::zero();
  for (int64_t first = 0; first < depth; first += kStagedCols, x += chunk_stride) {
    const auto* at = x;
    for (const auto* const end = x + std::min(kStagedCols, depth - first); at < end; ++at, r += r_stride) {
      typename Vector::Register panel[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        panel[v] = Vector::load(r + v * L);
        __builtin_prefetch(r + kAhead * r_stride + v * L);
      }
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const typename Vector::Register value = Vector::broadcast(at[i * kStagedStride]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[i][v] = Vector::fma(value, panel[v], sum[i][v]);
      }
    }
  }
  with_element<typename Vector::Scalar>(y.dtype, [&](auto element) {
    auto* to = static_cast<decltype(element)*>(y.data) + col;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i, to += y.row_stride) {
#pragma GCC unroll 2
      for (int v = 0; v + 1 < vectors; ++v) Vector::store(to + v * L, sum[i][v]);
      if (last == L)
        Vector::store(to + (vectors - 1) * L, sum[i][vectors - 1]);
      else
        Vector::store(to + (vectors - 1) * L, sum[i][vectors - 1], last);
    }
  });
}

template <class Vector, int rows = Vector::kTileRows>
void apply_rows(int wanted, int64_t depth, const typename Vector::Scalar* x, int64_t chunk_stride,
                const typename Vector::Scalar* r, int64_t r_stride, int64_t panel_stride, int64_t cols,
                const Destination& y) {
  constexpr int L = Vector::kLanes;
  if constexpr (rows > 1) {
    if (wanted < rows)
      return apply_rows<Vector, rows - 1>(wanted, depth, x, chunk_stride, r, r_stride, panel_stride, cols, y);
  }
  for (int64_t col = 0; col < cols; col += 2 * L, r += panel_stride) {
    const int64_t left = cols - col;
    if (left > L)
      apply_tile<Vector, rows, 2>(depth, x, chunk_stride, r, r_stride, int(std::min<int64_t>(left - L, L)), y, col);
    else
      apply_tile<Vector, rows, 1>(depth, x, chunk_stride, r, r_stride, int(left), y, col);
  }
}

template <class Vector>
constexpr BlockKernels<typename Vector::Scalar> make_block_kernels() {
  return {Vector::kTileRows, 2 * Vector::kLanes, &apply_rows<Vector>};
}

}  // namespace
}  // namespace lrk::cpu
