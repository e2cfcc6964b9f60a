// Products with orthogonal matrices, torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {

/// Rounds of plane rotations. Round t has stride s = strides[t] and rotates the pairs (i, j = i + s) with (i / s) even
/// and j < features, in increasing i, pair p by angles(t, p):
///   y_i = cos x_i - sin x_j,  y_j = sin x_i + cos x_j.
/// `inverse` undoes the rounds, last first.
struct GivensRounds {
  MatrixView angles;               // [rounds, >= features / 2], float32 or float64 as the rotations are computed
  const int64_t* strides = nullptr;  // [rounds], each >= 1
  bool inverse = false;
};

struct GivensArgs {
  MatrixView x;         // [rows, features], any strides
  GivensRounds rounds;
  MutableMatrixView y;  // [rows, features], x's dtype
};

/// From y = givens(x) and the gradient of y, both walked back round by round: nothing between the rounds is stored.
///   dx = givens(grad, not inverse),  dangles(t, p) = sum over rows of g_j y_i - g_i y_j, the same before and after
/// the rotation. Sums are taken in an order that depends on the shape alone.
struct GivensBackwardArgs {
  MatrixView y, grad;         // [rows, features], one dtype, any strides
  GivensRounds rounds;
  MutableMatrixView dx;       // [rows, features], y's dtype
  MutableMatrixView dangles;  // [rounds, as angles], angles' dtype; entries past the last pair become 0
};

/// Orthogonal matrices from skew-symmetric ones. Row n of `skew` is the row-major upper triangle of Q, Q[i < j] = +v.
/// terms == 0: R = (I + Q)(I - Q)^-1 = 2 (I - Q)^-1 - I. Otherwise that many terms of its Neumann series,
/// I + 2 Q + ... + 2 Q^(terms - 2) + Q^(terms - 1) (`neumann_coefficient`).
struct CayleyArgs {
  MatrixView skew;             // [count, block (block - 1) / 2], any strides
  int64_t count = 0, block = 0, terms = 0;
  MutableMatrixView rotation;  // [count block, block], skew's dtype, contiguous
};

/// The gradient of skew: with dQ the gradient of Q, dQ[i, j] - dQ[j, i] for i < j.
///   terms == 0: dQ = (R + I)t G (R + I)t / 2, so R is all that is read beside G
///   else the series' own, from skew
struct CayleyBackwardArgs {
  MatrixView grad;          // G [count block, block], contiguous
  MatrixView rotation;      // R, as grad; absent unless terms == 0
  MatrixView skew;          // as above; absent when terms == 0
  int64_t count = 0, block = 0, terms = 0;
  MutableMatrixView dskew;  // [count, block (block - 1) / 2], grad's dtype, contiguous
};

/// How many terms a series of `terms` has: PEFT's of three is that of four.
constexpr int64_t neumann_terms(int64_t terms) { return terms == 3 ? 4 : terms; }

/// The factor of Q^power in a series of `terms` = neumann_terms(...) terms; of two terms it is I + 2 Q.
constexpr double neumann_coefficient(int64_t power, int64_t terms) {
  return power == 0 || (power == terms - 1 && terms > 2) ? 1.0 : 2.0;
}

/// Every block of features as a row vector times its matrix: y_n = x_n R_n, or x_n R_nt.
struct BlockDiagonalArgs {
  MatrixView x;          // [rows, count block], any strides
  MatrixView blocks;     // R [count block, block], or [block, block] for all of them; any strides, any dtype that widens
  int64_t block = 0;     // to the sums' type: float32, or float64 for float64
  bool transpose = false;
  MutableMatrixView y;   // as x, x's dtype, contiguous
};

/// dx_n = g_n R_nt and dR_n = x_nt g_n (transposed: g_n R_n and g_nt x_n); on the CPU from one reading of x and g. Sums
/// are taken in an order that depends on the shape alone, on CUDA on the device's number of multiprocessors too. Where
/// library_block_diagonal_backward says that the caller's GEMM is the better kernel, its order is that GEMM's.
struct BlockDiagonalBackwardArgs {
  MatrixView grad, x;         // [rows, count block], one dtype, any strides
  MatrixView blocks;          // as above
  int64_t block = 0;
  bool transpose = false;
  MutableMatrixView dx;       // as grad, contiguous; absent when nobody wants it
  MutableMatrixView dblocks;  // as blocks, contiguous
};

struct OrthogonalBackend {
  const char* name;  // "cpu", "cuda", "cuda_emulated"
  Plan (*plan_givens)(const GivensArgs&, const Context&);
  Status (*givens)(const GivensArgs&, const Context&);
  Plan (*plan_givens_backward)(const GivensBackwardArgs&, const Context&);
  Status (*givens_backward)(const GivensBackwardArgs&, const Context&);
  Plan (*plan_cayley)(const CayleyArgs&, const Context&);
  Status (*cayley)(const CayleyArgs&, const Context&);
  Plan (*plan_cayley_backward)(const CayleyBackwardArgs&, const Context&);
  Status (*cayley_backward)(const CayleyBackwardArgs&, const Context&);
  Plan (*plan_block_diagonal)(const BlockDiagonalArgs&, const Context&);
  Status (*block_diagonal)(const BlockDiagonalArgs&, const Context&);
  Plan (*plan_block_diagonal_backward)(const BlockDiagonalBackwardArgs&, const Context&);
  Status (*block_diagonal_backward)(const BlockDiagonalBackwardArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
  /// Whether a caller that has a library's batched product should leave y_n = x_n R_n, or its gradients, to it, as
  /// Plan::library_gemm says too; nullptr: never.
  bool (*library_block_diagonal)(const BlockDiagonalArgs&) = nullptr;
  bool (*library_block_diagonal_backward)(const BlockDiagonalBackwardArgs&) = nullptr;
};

const OrthogonalBackend& orthogonal_cpu();
/// nullptr when the library was built without it.
const OrthogonalBackend* orthogonal_cuda();
const OrthogonalBackend* orthogonal_cuda_emulated();

}  // namespace lrk
