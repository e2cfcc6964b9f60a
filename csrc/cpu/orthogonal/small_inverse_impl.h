// Gauss-Jordan elimination in place, written once over the vector types of vector_<isa>.h.
//
// With K the pivots' rows and columns and D = A[K, K]: A[K, :] becomes D^-1 A[K, :] with I for A[K, K], and of every
// other row i, A[i, :] loses A[i, K] times the new A[K, :], with 0 for A[i, K]. After all pivots A is its inverse.
// Four pivots at once read and write the matrix a quarter as often; two rows at once share the loads of the pivot rows.
#pragma once

#include "cpu/orthogonal/small_inverse.h"

namespace lrk::cpu {
namespace {

/// The same for a block that fits into registers, a pivot at a time.
template <class T, int size>
inline void invert_pivots(T (&block)[size][size]) {
  for (int k = 0; k < size; ++k) {
    const T reciprocal = 1 / block[k][k];
    block[k][k] = 1;
    for (int j = 0; j < size; ++j) block[k][j] *= reciprocal;
    for (int i = 0; i < size; ++i) {
      if (i == k) continue;
      const T factor = block[i][k];
      block[i][k] = 0;
      for (int j = 0; j < size; ++j) block[i][j] -= factor * block[k][j];
    }
  }
}

/// Subtracts A[i, K] times the pivot rows from `rows` rows.
template <class Vector, int pivots, int rows>
inline void eliminate(typename Vector::Scalar* row, const typename Vector::Scalar* pivot_rows, int64_t first,
                      int64_t width, int64_t stride) {
  typename Vector::Register factor[rows][pivots];
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int k = 0; k < pivots; ++k) {
      factor[i][k] = Vector::broadcast(row[i * stride + first + k]);
      row[i * stride + first + k] = 0;
    }
  }
  for (int64_t j = 0; j < width; j += Vector::kLanes) {
    typename Vector::Register pivot[pivots];
#pragma GCC unroll 4
    for (int k = 0; k < pivots; ++k) pivot[k] = Vector::load(pivot_rows + k * stride + j);
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) {
      typename Vector::Register value = Vector::load(row + i * stride + j);
#pragma GCC unroll 4
      for (int k = 0; k < pivots; ++k) value = Vector::negated_fma(factor[i][k], pivot[k], value);
      Vector::store(row + i * stride + j, value);
    }
  }
}

template <class Vector, int pivots>
inline void pivot_step(typename Vector::Scalar* matrix, int64_t first, int64_t size, int64_t width, int64_t stride) {
  using T = typename Vector::Scalar;
  T* const pivot_rows = matrix + first * stride;
  T inverse[pivots][pivots];
  for (int i = 0; i < pivots; ++i) {
    for (int k = 0; k < pivots; ++k) {
      inverse[i][k] = pivot_rows[i * stride + first + k];
      pivot_rows[i * stride + first + k] = T(i == k);
    }
  }
  invert_pivots(inverse);
  for (int64_t j = 0; j < width; j += Vector::kLanes) {
    typename Vector::Register old[pivots];
#pragma GCC unroll 4
    for (int k = 0; k < pivots; ++k) old[k] = Vector::load(pivot_rows + k * stride + j);
#pragma GCC unroll 4
    for (int i = 0; i < pivots; ++i) {
      typename Vector::Register sum = Vector::multiply(Vector::broadcast(inverse[i][0]), old[0]);
#pragma GCC unroll 4
      for (int k = 1; k < pivots; ++k) sum = Vector::fma(Vector::broadcast(inverse[i][k]), old[k], sum);
      Vector::store(pivot_rows + i * stride + j, sum);
    }
  }
  const auto eliminate_from = [&](int64_t begin, int64_t end) {
    int64_t row = begin;
    for (; row + 2 <= end; row += 2)
      eliminate<Vector, pivots, 2>(matrix + row * stride, pivot_rows, first, width, stride);
    if (row < end) eliminate<Vector, pivots, 1>(matrix + row * stride, pivot_rows, first, width, stride);
  };
  eliminate_from(0, first);
  eliminate_from(first + pivots, size);
}

template <class Vector>
void small_inverse_of(typename Vector::Scalar* matrix, int64_t size, int64_t stride) {
  const int64_t width = (size + Vector::kLanes - 1) / Vector::kLanes * Vector::kLanes;
  int64_t first = 0;
  for (; first + 4 <= size; first += 4) pivot_step<Vector, 4>(matrix, first, size, width, stride);
  for (; first < size; ++first) pivot_step<Vector, 1>(matrix, first, size, width, stride);
}

}  // namespace
}  // namespace lrk::cpu
