// Decompositions of small square float64 matrices on a workbench.
#pragma once

#include "cpu/sketch/workbench.h"

namespace lrk::cpu {

/// Eigenvalues of the symmetric `a`, descending, and its eigenvectors as the rows of `a`: what the caller gave, or
/// symmetric_eigen of small_dense.h.
Status eigen_decomposition(Workbench& bench, double* a, int64_t size, double* values);

/// a = left diag(values) rightT: values descend, and the singular vectors are the *rows* of `left` and `right`.
/// `precision` is how far two left vectors may be from orthogonal: float32's or float64's own, where less is asked less
/// is done. `a` [size, size] may be anything finite, zero and rank-deficient included.
///
/// Eigenvectors W of aT a, then one-sided Jacobi rotations of a W (Hestenes 1958; Drmac and Veselic, SIMAX 2008), which
/// repair what squaring has lost of the small singular values: a few sweeps at most, of the pairs that need it.
Status small_svd(Workbench& bench, const double* a, int64_t size, double precision, double* left, double* values,
                 double* right);

}  // namespace lrk::cpu
