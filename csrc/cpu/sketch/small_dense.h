// Factorisations of small dense float64 matrices, row-major and contiguous.
#pragma once

#include <cstdint>

namespace lrk::cpu {

/// The upper triangle of the symmetric `gram` becomes R of gram = RT R, and the rest 0. Returns the smallest pivot
/// divided by its diagonal entry, which is 1 for orthogonal columns; where one is not above `least` (NaN is not), stops
/// and returns 0: the triangle is then not to be used.
double cholesky(double* gram, int64_t size, double least);

/// inverse = R^-1 of an upper triangle without a zero on its diagonal.
void invert_upper(const double* r, int64_t size, double* inverse);

/// Eigenvalues of the symmetric `a`, descending, and its orthonormal eigenvectors as the *rows* of `a`, to roundings of
/// the largest eigenvalue. `work` has 3 * size * size entries. Returns whether the iteration converged, as it does for
/// finite numbers.
///
/// Householder's tridiagonal form, then the QL iteration with implicit shifts (Wilkinson and Reinsch, Handbook for
/// Automatic Computation II, 1971, contributions II/2 and II/4).
bool symmetric_eigen(double* a, int64_t size, double* values, double* work);

}  // namespace lrk::cpu
