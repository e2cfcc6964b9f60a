// QR decompositions by Householder's reflections, on a workbench: of any matrix, whatever its rank.
#pragma once

#include <array>

#include "cpu/sketch/workbench.h"

namespace lrk::cpu {

/// Q R of a float64 matrix whose *columns* are the rows of `columns` [cols, rows], cols <= rows: they become Q's
/// columns, orthonormal to rounding whatever the rank is, and `r` [cols, cols] (or nullptr) the triangle, its diagonal
/// not negative.
///
/// Panels of 32 reflections are one I - V T VT (Schreiber and Van Loan, SIAM J. Sci. Stat. Comput. 1989), so that all
/// but 32 / cols of the 4 rows cols^2 operations are in products.
Status householder_qr(Workbench& bench, double* columns, int64_t rows, int64_t cols, double* r);

/// Elements of float64 work memory that it takes, one after the other.
std::array<int64_t, 5> householder_scratch(int64_t rows, int64_t cols);

}  // namespace lrk::cpu
