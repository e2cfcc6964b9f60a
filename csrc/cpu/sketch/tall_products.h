// The products of tall matrices that a GEMM library has no cheap form of. T is float or double.
#pragma once

#include "cpu/sketch/workbench.h"

namespace lrk::cpu {

/// gram [cols, cols] = XT X in float64, of a contiguous x [rows, cols].
///
/// rows * cols * (cols + 1) / 2 multiply-adds up to 512 columns, where only tiles that meet the upper triangle are
/// computed; twice that beyond, by the library's product. Rows are split by the shape alone and the parts are added in
/// order.
template <class T>
Status gram_matrix(Workbench& bench, const T* x, int64_t rows, int64_t cols, double* gram);

/// Elements of work memory that it takes, 0 where a product does it.
int64_t gram_sums(int64_t rows, int64_t cols);

/// x = x R for an upper triangular `r` [cols, cols] of float64, rounded to T, in place: half of a product's work up
/// to 512 columns, a product beyond.
template <class T>
Status multiply_by_upper(Workbench& bench, T* x, int64_t rows, int64_t cols, const double* r);

/// Elements of work memory that it takes: of the triangle, and of a copy of x.
struct UpperProduct {
  int64_t triangle, copy;
};
template <class T>
UpperProduct upper_product(int64_t rows, int64_t cols);

/// y [rows, <= size], rows contiguous, = the first columns of a Omega for the sparse sign matrix of `seed` and `size`
/// columns (sketch_matrix.h), of `scale` times a: kSparseSigns additions an entry of `a`, which is read once, where a
/// product with a dense matrix needs `size` multiply-adds. A scale that is not 1 keeps the sums from overflowing.
template <class T>
Status multiply_by_sparse_signs(Workbench& bench, const MatrixView& a, uint64_t seed, int64_t size, double scale,
                                const MutableMatrixView& y);

/// Elements of work memory that it takes, and how the work is cut.
struct SparseProduct {
  int64_t entries, blocks, tasks, codes, sums;
};
SparseProduct sparse_product(int64_t rows, int64_t cols, int64_t size);

}  // namespace lrk::cpu
