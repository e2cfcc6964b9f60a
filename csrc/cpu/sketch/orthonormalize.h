// QR decompositions of tall matrices by products: CholeskyQR, and what repairs it.
#pragma once

#include "cpu/sketch/workbench.h"

namespace lrk::cpu {

/// The rungs that a matrix needed, for plans' sake and for tests.
enum class QrRung : int { kGram = 0, kSketch = 1, kHouseholder = 2 };

/// Whether the third rung comes first. Reflections need fewer operations than two passes of CholeskyQR, of which a
/// square matrix may need three; few columns are not worth their panels.
inline bool reflects_at_once(int64_t rows, int64_t cols) { return rows < 2 * cols && cols >= 128; }

/// q [rows, cols], cols <= rows, contiguous, becomes an orthonormal basis of its own columns, completed where they are
/// dependent, or NaN where one of them is not finite; `r` (float64 [cols, cols], or nullptr) the triangle, its diagonal
/// not negative.
///
/// A ladder; each rung says whether the next is needed by one number, so that a device can do the same without a host:
///  1. CholeskyQR from a float64 Gram matrix, and again until the triangle that was divided by is well conditioned:
///     twice, as a rule (Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, ETNA 2015). Good to a condition number of 1e5,
///     where float64's Gram matrix loses its digits. Q is a product with the triangle's inverse, or, where that would
///     show in A - Q R and `r` is wanted, solved for by substitution.
///  2. The triangle of a sketch of the matrix preconditions it first (Fan, Guo and Lin; Balabanov, "Randomized Cholesky
///     QR factorizations", 2022; Higgins, Szyld, Boman and Yamazaki, 2023). Columns that depend on those before are
///     replaced by random signs. Good to 1e12.
///  3. Householder's reflections in float64, for what the rungs before did not make orthonormal, and first of all for
///     matrices of many columns and hardly more rows.
template <class T>
Status orthonormalize(Workbench& bench, T* q, int64_t rows, int64_t cols, double* r, QrRung* rung = nullptr);

/// q becomes a well conditioned basis of its own columns, as one between two products need be: one pass of CholeskyQR,
/// the diagonal of the Gram matrix raised by 4e-11 of itself where columns are dependent in float32 (shifted
/// CholeskyQR: Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa, SIAM J. Sci. Comput. 2020). float64, and columns
/// that are zero or so short or long that float32 has no inverse of the triangle, go to orthonormalize.
template <class T>
Status normalize(Workbench& bench, T* q, int64_t rows, int64_t cols);

}  // namespace lrk::cpu
