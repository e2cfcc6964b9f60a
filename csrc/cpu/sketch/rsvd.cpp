// Range finder and randomised SVD (Halko, Martinsson and Tropp, SIAM Review 2011, algorithms 4.4 and 5.1). Every
// product with A is followed by an orthonormalisation, without which float32 loses the smaller singular values.
#include <cmath>

#include "cpu/sketch/kernels.h"
#include "cpu/sketch/orthonormalize.h"
#include "cpu/sketch/sketch_matrix.h"
#include "cpu/sketch/small_svd.h"

namespace lrk::cpu {
namespace {

/// A contiguous copy in T of a matrix of T.
template <class T>
void copy_matrix(const MatrixView& from, T* to, int64_t to_stride) {
  const T* const data = static_cast<const T*>(from.data);
  for (int64_t i = 0; i < from.rows; ++i)
    for (int64_t j = 0; j < from.cols; ++j) to[i * to_stride + j] = data[i * from.row_stride + j * from.col_stride];
}

template <class T>
Status range_of(Workbench& bench, const RangeFinderArgs& args, T* q, int64_t size) {
  const Scratch::Frame frame(bench.scratch);
  const int64_t rows = args.a.rows, cols = args.a.cols, warm = args.q0.present() ? args.q0.cols : 0;
  T* const start = bench.scratch.take<T>(cols * size);
  T* const known = bench.scratch.take<T>(std::max(cols, rows) * warm);
  if (bench.scratch.failed()) return bench.scratch.failure("range_finder");
  SketchMatrixArgs omega;
  omega.seed = args.seed, omega.matrix = view_of(start, cols, size);
  fill_sketch_matrix<T>(omega, bench.context);
  const auto constant = [](const T* data, int64_t r, int64_t c) { return view_of<T>(data, r, c); };
  if (warm > 0) {
    LRK_RETURN_IF_FAILED(bench.product(args.a.transposed(), args.q0, view_of(known, cols, warm)));
    LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, known, cols, warm, nullptr));
    // The columns that remain are the first of Omega, as where there is no basis of before.
    for (int64_t i = 0; i < cols; ++i) {
      std::copy_backward(start + i * size, start + i * size + size - warm, start + (i + 1) * size);
      std::copy_n(known + i * warm, warm, start + i * size);
    }
  }
  LRK_RETURN_IF_FAILED(bench.product(args.a, constant(start, cols, size), view_of(q, rows, size)));
  LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, q, rows, size, nullptr));
  for (int64_t step = 0; step < args.power_iters; ++step) {
    LRK_RETURN_IF_FAILED(bench.product(args.a.transposed(), constant(q, rows, size), view_of(start, cols, size)));
    LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, start, cols, size, nullptr));
    LRK_RETURN_IF_FAILED(bench.product(args.a, constant(start, cols, size), view_of(q, rows, size)));
    LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, q, rows, size, nullptr));
  }
  return {};
}

/// Columns of u and v change their signs so that the largest entry of u's is positive, of equal ones the first.
template <class T>
void fix_signs(T* u, int64_t rows, T* v, int64_t cols, int64_t rank, T* largest) {
  std::fill_n(largest, rank, T(0));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < rank; ++j)
      if (std::fabs(u[i * rank + j]) > std::fabs(largest[j])) largest[j] = u[i * rank + j];
  const auto turn = [&](T* matrix, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < rank; ++j)
        if (largest[j] < 0) matrix[i * rank + j] = -matrix[i * rank + j];
  };
  turn(u, rows), turn(v, cols);
}

}  // namespace

template <class T>
Status orthonormalize_matrix(const OrthonormalizeArgs& args, const Context& context) {
  Workbench bench(context, args.product);
  const int64_t rows = args.a.rows, cols = args.a.cols, size = std::min(rows, cols);
  if (size == 0) return {};
  MatrixView first = args.a, rest = args.a;
  first.cols = size, rest.cols = cols - size;
  rest.data = static_cast<const T*>(args.a.data) + size * args.a.col_stride;
  T* const q = static_cast<T*>(args.q.data);
  double* const triangle = args.r.present() ? bench.scratch.take<double>(size * size) : nullptr;
  if (bench.scratch.failed()) return bench.scratch.failure("orthonormalize");
  copy_matrix<T>(first, q, size);
  LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, q, rows, size, triangle));
  if (!args.r.present()) return {};
  T* const r = static_cast<T*>(args.r.data);
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j < size; ++j) r[i * args.r.row_stride + j * args.r.col_stride] = T(triangle[i * size + j]);
  MutableMatrixView right = args.r;
  right.data = r + size * args.r.col_stride, right.cols = cols - size;
  const MatrixView qt = view_of<T>(static_cast<const T*>(q), rows, size).transposed();
  return bench.product(qt, rest, right);
}

template <class T>
Status find_range(const RangeFinderArgs& args, const Context& context) {
  if (args.q.rows == 0 || args.q.cols == 0) return {};
  Workbench bench(context, args.product);
  return range_of<T>(bench, args, static_cast<T*>(args.q.data), args.q.cols);
}

template <class T>
Status randomized_svd(const RsvdArgs& args, const Context& context) {
  // A^T Q = P R and R = Y S W^T give A ~ Q Q^T A = Q R^T P^T = (Q W) S (P Y)^T.
  const int64_t rows = args.range.a.rows, cols = args.range.a.cols, size = args.basis, rank = args.s.cols;
  if (rank == 0) return {};
  Workbench bench(context, args.range.product);
  T *const q = bench.scratch.take<T>(rows * size), *const p = bench.scratch.take<T>(cols * size),
    *const factor = bench.scratch.take<T>(size * rank);
  double *const r = bench.scratch.take<double>(size * size), *const left = bench.scratch.take<double>(size * size),
         *const right = bench.scratch.take<double>(size * size), *const values = bench.scratch.take<double>(size);
  if (bench.scratch.failed()) return bench.scratch.failure("rsvd");
  LRK_RETURN_IF_FAILED(range_of<T>(bench, args.range, q, size));
  const MatrixView basis = view_of<T>(static_cast<const T*>(q), rows, size);
  LRK_RETURN_IF_FAILED(bench.product(args.range.a.transposed(), basis, view_of(p, cols, size)));
  LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, p, cols, size, r));
  // What float32 rounds anyway need not be orthogonal to float64's last bits.
  LRK_RETURN_IF_FAILED(small_svd(bench, r, size, sizeof(T) == 8 ? 0x1p-50 : 0x1p-28, left, values, right));
  const auto expand = [&](const MatrixView& matrix, const double* vectors, const MutableMatrixView& out) {
    for (int64_t j = 0; j < rank; ++j)
      for (int64_t i = 0; i < size; ++i) factor[i * rank + j] = T(vectors[j * size + i]);
    return bench.product(matrix, view_of<T>(static_cast<const T*>(factor), size, rank), out);
  };
  LRK_RETURN_IF_FAILED(expand(basis, right, args.u));
  LRK_RETURN_IF_FAILED(expand(view_of<T>(static_cast<const T*>(p), cols, size), left, args.v));
  for (int64_t j = 0; j < rank; ++j) static_cast<T*>(args.s.data)[j * args.s.col_stride] = T(values[j]);
  fix_signs(static_cast<T*>(args.u.data), rows, static_cast<T*>(args.v.data), cols, rank, factor);
  return {};
}

template Status orthonormalize_matrix<float>(const OrthonormalizeArgs&, const Context&);
template Status orthonormalize_matrix<double>(const OrthonormalizeArgs&, const Context&);
template Status find_range<float>(const RangeFinderArgs&, const Context&);
template Status find_range<double>(const RangeFinderArgs&, const Context&);
template Status randomized_svd<float>(const RsvdArgs&, const Context&);
template Status randomized_svd<double>(const RsvdArgs&, const Context&);

}  // namespace lrk::cpu
