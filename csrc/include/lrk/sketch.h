// Random sketches, orthonormal bases, truncated singular value decompositions, polar factors and bounds of the spectral
// norm, torch-free. Equations and sources: python/lrkernels/reference/{sketch,rsvd,polar}.py.
//
// Matrices are float32 or float64; what is small (a Gram matrix, a triangle, their decompositions) is float64 always.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {

/// out = a b, of float32 or float64 matrices of any strides: all of one dtype, or float32 operands and a float64 `out`,
/// whose sums are then float64. None of them is empty. What runs it is the caller's choice; without one it is the
/// library's own GEMM (lrk/lowrank.h).
using MatrixProduct = std::function<Status(const MatrixView& a, const MatrixView& b, const MutableMatrixView& out)>;

/// Eigenvalues of the symmetric float64 `a` [size, size], descending, and its orthonormal eigenvectors as the rows of
/// `a`. What runs it is the caller's choice; without one it is the library's own QL iteration.
using SymmetricEigen = std::function<Status(double* a, int64_t size, double* values)>;

enum class SketchKind : int8_t { kRademacher, kSparseSign, kGaussian, kHadamard, kDct };

/// The matrix that sketches, every entry a function of (seed, row, column).
struct SketchMatrixArgs {
  SketchKind kind = SketchKind::kRademacher;
  uint64_t seed = 0;
  MatrixView columns;         // kDct: frequencies as float64 [1, size]; absent: 0, 1, ...
  MutableMatrixView matrix;   // [features, size], rows contiguous
};

/// a = q r with orthonormal columns in q, whatever the rank of a is, r upper triangular and its diagonal not negative.
struct OrthonormalizeArgs {
  MatrixView a;          // [rows, cols], any strides
  MatrixProduct product;
  MutableMatrixView q;   // [rows, min(rows, cols)], a's dtype, contiguous
  MutableMatrixView r;   // [min(rows, cols), cols], a's dtype; absent when not wanted
};

/// An orthonormal basis of the space that `a` maps a random subspace to, after power_iters steps of subspace iteration.
struct RangeFinderArgs {
  MatrixView a;          // [rows, cols], any strides
  MatrixView q0;         // [rows, <= size] a basis of before, a's dtype; absent: none
  int64_t power_iters = 1;
  uint64_t seed = 0;
  MatrixProduct product;
  MutableMatrixView q;   // [rows, size <= min(rows, cols)], a's dtype, contiguous
};

/// a = u diag(s) vT truncated to `rank` columns; s descends and the largest entry of every column of u is positive.
struct RsvdArgs {
  RangeFinderArgs range;  // its q is not used: work memory of `basis` columns
  SymmetricEigen eigen;
  int64_t basis = 0;      // rank <= basis <= min(rows, cols)
  MutableMatrixView u;    // [rows, rank], a's dtype, contiguous
  MutableMatrixView s;    // [1, rank]
  MutableMatrixView v;    // [cols, rank]
};

/// `steps` of X = c0 X + (c1 M + c2 M^2) X with M = X XT from a / |a|_F, three coefficients a step (without one a / |a|_F
/// itself); or, where `exact` says so, the factor by a singular value decomposition.
struct PolarArgs {
  MatrixView a;                       // [rows, cols], any strides
  std::vector<double> coefficients;   // 3 * steps
  bool exact = false;
  MatrixProduct product;
  SymmetricEigen eigen;               // of `exact`
  MutableMatrixView out;              // as a, contiguous
};

/// A number that is not below |weight|_2, rounding included.
struct SpectralNormBoundArgs {
  MatrixView weight;  // [rows, cols], any strides
  int64_t iters = 6;
  MatrixProduct product;
  double* bound = nullptr;
};

struct BatchedPolarArgs;  // lrk/sketch_batched.h

struct SketchBackend {
  const char* name;  // "cpu"
  Plan (*plan_sketch_matrix)(const SketchMatrixArgs&, const Context&);
  Status (*sketch_matrix)(const SketchMatrixArgs&, const Context&);
  Plan (*plan_orthonormalize)(const OrthonormalizeArgs&, const Context&);
  Status (*orthonormalize)(const OrthonormalizeArgs&, const Context&);
  Plan (*plan_range_finder)(const RangeFinderArgs&, const Context&);
  Status (*range_finder)(const RangeFinderArgs&, const Context&);
  Plan (*plan_rsvd)(const RsvdArgs&, const Context&);
  Status (*rsvd)(const RsvdArgs&, const Context&);
  Plan (*plan_polar)(const PolarArgs&, const Context&);
  Status (*polar)(const PolarArgs&, const Context&);
  /// Newton-Schulz iterations of a stack of matrices, half types too, if polar_in_stack(count, rows, cols, dtype).
  bool (*polar_in_stack)(int64_t, int64_t, int64_t, DType);
  Plan (*plan_polar_stack)(const BatchedPolarArgs&, const Context&);
  Status (*polar_stack)(const BatchedPolarArgs&, const Context&);
  Plan (*plan_spectral_norm_bound)(const SpectralNormBoundArgs&, const Context&);
  Status (*spectral_norm_bound)(const SpectralNormBoundArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
};

const SketchBackend& sketch_cpu();

}  // namespace lrk
