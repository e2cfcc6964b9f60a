#include "cpu/sketch/small_svd.h"

#include <cmath>
#include <numeric>

#include "cpu/sketch/householder_qr.h"
#include "cpu/sketch/small_dense.h"
#include "cpu/sketch/vector_loops.h"

namespace lrk::cpu {
namespace {

/// Jacobi's rotation that makes two rows with squared lengths `alpha`, `beta` and product `gamma` orthogonal.
void rotate(double* first, double* second, double* right_first, double* right_second, int64_t size, double alpha,
            double beta, double gamma) {
  const double zeta = (beta - alpha) / (2 * gamma);
  const double tangent = std::copysign(1 / (std::fabs(zeta) + std::hypot(1.0, zeta)), zeta);
  const double cosine = 1 / std::sqrt(1 + tangent * tangent), sine = cosine * tangent;
  vector_loops().rotate(first, second, cosine, sine, size);
  vector_loops().rotate(right_first, right_second, cosine, sine, size);
}

/// One pass over the pairs of rows whose product in `gram` is too large; returns how many were rotated.
int64_t sweep(double* rows, double* right, const double* gram, int64_t size, double precision, double negligible) {
  const auto dot = vector_loops().dot;
  int64_t rotated = 0;
  for (int64_t p = 0; p < size; ++p) {
    for (int64_t q = p + 1; q < size; ++q) {
      // An earlier rotation of this sweep may have changed the product; the next sweep sees what this test lets pass.
      const double bound = precision * std::sqrt(gram[p * size + p]) * std::sqrt(gram[q * size + q]);
      if (!(std::fabs(gram[p * size + q]) > bound)) continue;
      double *const first = rows + p * size, *const second = rows + q * size;
      const double alpha = dot(first, first, size), beta = dot(second, second, size), gamma = dot(first, second, size);
      if (alpha <= negligible || beta <= negligible) continue;  // a null vector, replaced afterwards
      if (!(std::fabs(gamma) > precision * std::sqrt(alpha) * std::sqrt(beta))) continue;
      rotate(first, second, right + p * size, right + q * size, size, alpha, beta, gamma);
      ++rotated;
    }
  }
  return rotated;
}

}  // namespace

Status eigen_decomposition(Workbench& bench, double* a, int64_t size, double* values) {
  if (bench.given_eigen && size > 0) return bench.given_eigen(a, size, values);
  const Scratch::Frame frame(bench.scratch);
  double* const work = bench.scratch.take<double>(3 * size * size);
  if (bench.scratch.failed()) return bench.scratch.failure("svd");
  if (symmetric_eigen(a, size, values, work)) return {};
  return Status::invalid("the eigenvalues of a Gram matrix did not converge");
}

Status small_svd(Workbench& bench, const double* a, int64_t size, double precision, double* left, double* values,
                 double* right) {
  constexpr int kMostSweeps = 30;
  if (size == 0) return {};
  const Scratch::Frame frame(bench.scratch);
  const int64_t square = size * size;
  double *const scaled = bench.scratch.take<double>(square), *const gram = bench.scratch.take<double>(square),
         *const work = bench.scratch.take<double>(size);
  int64_t* const order = bench.scratch.take<int64_t>(size);
  if (bench.scratch.failed()) return bench.scratch.failure("svd");

  // A power of two brings the largest entry near 1, so that squares neither overflow nor vanish.
  double largest = 0, poison = 0;
  for (int64_t i = 0; i < square; ++i) largest = std::max(largest, std::fabs(a[i])), poison += 0 * a[i];
  if (poison != 0) {  // NaN or Inf somewhere
    std::fill_n(left, square, poison), std::fill_n(right, square, poison), std::fill_n(values, size, poison);
    return {};
  }
  int exponent = 0;
  if (largest > 0) std::frexp(largest, &exponent);
  for (int64_t i = 0; i < square; ++i) scaled[i] = std::ldexp(a[i], -exponent);

  const MatrixView matrix = view_of<double>(scaled, size, size);
  LRK_RETURN_IF_FAILED(bench.product(matrix.transposed(), matrix, view_of(right, size, size)));
  LRK_RETURN_IF_FAILED(eigen_decomposition(bench, right, size, values));
  // Rows of `left`: the columns of a W.
  const MatrixView vectors = view_of<double>(right, size, size);
  LRK_RETURN_IF_FAILED(bench.product(vectors, matrix.transposed(), view_of(left, size, size)));
  const MatrixView rows = view_of<double>(left, size, size);
  // Relative to the largest, 1 at least: what is smaller has no direction that float64 could know.
  const double negligible = 0x1p-1000;
  for (int sweeps = 0; sweeps < kMostSweeps; ++sweeps) {
    LRK_RETURN_IF_FAILED(bench.product(rows, rows.transposed(), view_of(gram, size, size)));
    if (sweep(left, right, gram, size, precision, negligible) == 0) break;
  }

  for (int64_t i = 0; i < size; ++i) work[i] = std::sqrt(vector_loops().dot(left + i * size, left + i * size, size));
  std::iota(order, order + size, int64_t(0));
  std::stable_sort(order, order + size, [&](int64_t p, int64_t q) { return work[p] > work[q]; });
  const auto sort_rows = [&](double* matrix_rows) {
    std::copy_n(matrix_rows, square, gram);
    for (int64_t i = 0; i < size; ++i) std::copy_n(gram + order[i] * size, size, matrix_rows + i * size);
  };
  sort_rows(left), sort_rows(right);
  int64_t rank = 0;
  for (int64_t i = 0; i < size; ++i) {
    const double value = work[order[i]];
    if (value * value > negligible) {
      for (int64_t j = 0; j < size; ++j) left[i * size + j] /= value;
      rank = i + 1;
      values[i] = std::ldexp(value, exponent);
    } else {
      std::fill_n(left + i * size, size, 0.0);
      values[i] = 0;
    }
  }
  if (rank < size) {
    // Vectors of zeros become orthonormal ones by Householder's reflections, which leave the others as they are but for
    // roundings and signs; only the new ones are taken.
    std::copy_n(left, square, gram);
    LRK_RETURN_IF_FAILED(householder_qr(bench, gram, size, size, nullptr));
    std::copy_n(gram + rank * size, (size - rank) * size, left + rank * size);
  }
  return {};
}

}  // namespace lrk::cpu
