// The inner kernels, written once over the vector types of vector_<isa>.h and compiled once per instruction set.
#pragma once

#include "cpu/gemm/kernels.h"
#include "cpu/gemm/stage_impl.h"

namespace lrk::cpu {
namespace {

// multiply: an outer-product tile. Per k it loads 2 vectors of b and broadcasts `rows` scalars of a for 2 * rows FMAs,
// so with 14 rows of AVX-512 the two FMA ports are busy and the two load ports nearly so.
template <class Vector, int rows>
void multiply_rows(int64_t depth, const typename Vector::Scalar* __restrict a, int64_t a_stride,
                   const typename Vector::Scalar* __restrict b, int64_t b_stride, typename Vector::Scalar* __restrict c,
                   int64_t c_stride, bool accumulate, const typename Vector::Scalar* fetch, int64_t fetch_count) {
  constexpr int L = Vector::kLanes;
  constexpr int64_t kPrefetch = 16;  // steps ahead, from the second level cache
  const int64_t fetch_step = (fetch_count + depth - 1) / depth;
  typename Vector::Register sum[rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    sum[i][0] = Vector::zero();
    sum[i][1] = Vector::zero();
  }
  for (int64_t k = 0; k < depth; ++k) {
    const typename Vector::Register b0 = Vector::load(b), b1 = Vector::load(b + L);
    __builtin_prefetch(a + kPrefetch * a_stride);
    __builtin_prefetch(b + kPrefetch * b_stride);
    __builtin_prefetch(b + kPrefetch * b_stride + L);
    __builtin_prefetch(fetch, 0, 2);
    fetch += fetch_step;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const typename Vector::Register value = Vector::broadcast(a[i]);
      sum[i][0] = Vector::fma(value, b0, sum[i][0]);
      sum[i][1] = Vector::fma(value, b1, sum[i][1]);
    }
    a += a_stride, b += b_stride;
  }
  // Added at the end, not summed on: the rounding error of a long sum in blocks grows with the blocks' length and
  // number, of one running sum with their product.
  if (accumulate) {
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      sum[i][0] = Vector::add(sum[i][0], Vector::load(c + i * c_stride));
      sum[i][1] = Vector::add(sum[i][1], Vector::load(c + i * c_stride + L));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    Vector::store(c + i * c_stride, sum[i][0]);
    Vector::store(c + i * c_stride + L, sum[i][1]);
  }
}

template <class Vector, int rows = Vector::kTileRows>
void multiply(int64_t wanted, int64_t depth, const typename Vector::Scalar* a, int64_t a_stride,
              const typename Vector::Scalar* b, int64_t b_stride, typename Vector::Scalar* c, int64_t c_stride,
              bool accumulate, const typename Vector::Scalar* fetch, int64_t fetch_count) {
  if constexpr (rows > 1) {
    if (wanted < rows)
      return multiply<Vector, rows - 1>(wanted, depth, a, a_stride, b, b_stride, c, c_stride, accumulate, fetch,
                                        fetch_count);
  }
  multiply_rows<Vector, rows>(depth, a, a_stride, b, b_stride, c, c_stride, accumulate, fetch, fetch_count);
}

// dot: both operands run along k, so nothing is packed and a weight in its own dtype is read exactly once. A tile of
// 4 streamed x 6 resident rows loads 10 vectors for 24 FMAs; lanes are summed at the end.
template <class Vector, int resident_rows, class Element>
void dot_tile(const Element* const (&streamed)[4], int64_t streamed_rows, const typename Vector::Scalar* resident,
              int64_t resident_stride, int64_t depth, typename Vector::Scalar* out, int64_t out_i, int64_t out_j,
              bool accumulate) {
  using Scalar = typename Vector::Scalar;
  using Register = typename Vector::Register;
  constexpr int L = Vector::kLanes;
  Register sum[resident_rows][4];
#pragma GCC unroll 8
  for (int j = 0; j < resident_rows; ++j)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[j][i] = Vector::zero();
  int64_t k = 0;
  for (; k + L <= depth; k += L) {
    Register row[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) row[i] = Vector::load(streamed[i] + k);
#pragma GCC unroll 8
    for (int j = 0; j < resident_rows; ++j) {
      const Register other = Vector::load(resident + j * resident_stride + k);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sum[j][i] = Vector::fma(row[i], other, sum[j][i]);
    }
  }
  if (k < depth) {
    const int count = int(depth - k);
    Register row[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) row[i] = Vector::load(streamed[i] + k, count);
#pragma GCC unroll 8
    for (int j = 0; j < resident_rows; ++j) {
      const Register other = Vector::load(resident + j * resident_stride + k, count);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sum[j][i] = Vector::fma(row[i], other, sum[j][i]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < resident_rows; ++j) {
    Scalar total[4];
    Vector::sum4(sum[j], total);
    for (int64_t i = 0; i < streamed_rows; ++i) {
      Scalar& to = out[i * out_i + j * out_j];
      to = accumulate ? to + total[i] : total[i];
    }
  }
}

template <class Vector, int rows, class Element>
void dot_rows(const Element* const (&streamed)[4], int64_t streamed_rows, const typename Vector::Scalar* resident,
              int64_t resident_stride, int64_t wanted, int64_t depth, typename Vector::Scalar* out, int64_t out_i,
              int64_t out_j, bool accumulate) {
  if constexpr (rows > 1) {
    if (wanted < rows)
      return dot_rows<Vector, rows - 1>(streamed, streamed_rows, resident, resident_stride, wanted, depth, out, out_i,
                                        out_j, accumulate);
  }
  dot_tile<Vector, rows>(streamed, streamed_rows, resident, resident_stride, depth, out, out_i, out_j, accumulate);
}

template <class Vector>
void dot(const Source& streamed, int64_t streamed_rows, const typename Vector::Scalar* resident,
         int64_t resident_stride, int64_t resident_rows, int64_t depth, typename Vector::Scalar* out, int64_t out_i,
         int64_t out_j, bool accumulate) {
  with_element<typename Vector::Scalar>(streamed.dtype, [&](auto element) {
    using Element = decltype(element);
    const Element* rows[4];
    // Rows past the end repeat the last one; their sums are not stored.
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t row = i < streamed_rows ? i : streamed_rows - 1;
      rows[i] = static_cast<const Element*>(streamed.data) + row * streamed.row_stride;
    }
    dot_rows<Vector, Vector::kDotResident>(rows, streamed_rows, resident, resident_stride, resident_rows, depth, out,
                                           out_i, out_j, accumulate);
  });
}

template <class Vector>
constexpr Kernels<typename Vector::Scalar> make_kernels() {
  Kernels<typename Vector::Scalar> table{};
  table.tile_rows = Vector::kTileRows;
  table.tile_cols = 2 * Vector::kLanes;
  table.dot_streamed = Vector::kDotStreamed;
  table.dot_resident = Vector::kDotResident;
  table.stage = stage<Vector>;
  table.drop = drop<Vector>;
  table.multiply = multiply<Vector>;
  table.dot = dot<Vector>;
  table.finish = finish<Vector>;
  return table;
}

}  // namespace
}  // namespace lrk::cpu
