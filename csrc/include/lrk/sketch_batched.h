// The randomized SVD family on stacks of matrices of one shape, torch-free: a device's, for which every launch serves all,
// and of the CPU's, which is lrk/sketch.h, what takes a stack too. Equations and sources:
// python/lrkernels/reference/{sketch,rsvd,polar}.py. On a device nothing waits for the host: what depends on values is
// decided by flags in device memory.
//
// Matrices come in float32, bfloat16 or float16 and are computed with in float32, on the CPU float64 too; what is small (a
// Gram matrix, a triangle, its decompositions) is float64.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/sketch.h"
#include "lrk/types.h"

namespace lrk {

/// `count` matrices of one shape; neighbours' first elements are `stride` elements apart.
struct Matrices {
  MatrixView first;
  int64_t count = 0, stride = 0;

  bool present() const { return first.present(); }
  Matrices transposed() const { return {first.transposed(), count, stride}; }
};

struct MutableMatrices {
  MutableMatrixView first;
  int64_t count = 0, stride = 0;

  bool present() const { return first.present(); }
  operator Matrices() const { return {first, count, stride}; }
};

/// out_n = a_n b_n for every n, enqueued on the context's stream by the caller's library: one dtype, float32 or float64,
/// any strides, nothing empty.
using BatchedProduct = std::function<Status(const Matrices& a, const Matrices& b, const MutableMatrices& out)>;

/// y = x Omega, or x OmegaT of the adjoint, with an Omega [features, size] of signs that is made where it is used.
struct SketchProductArgs {
  SketchKind kind = SketchKind::kRademacher;  // or kSparseSign
  uint64_t seed = 0;
  bool adjoint = false;
  int64_t size = 0;     // of Omega where y takes only its first columns; 0: y takes all
  MatrixView x;         // [rows, features], or [rows, size] of the adjoint; any strides
  MutableMatrixView y;  // [rows, <= size], or [rows, features]; x's dtype
};

/// a_n = q_n r_n with orthonormal columns in q, whatever the rank of a is, r upper triangular and its diagonal not
/// negative. NaN where a_n's first min(rows, cols) columns are not finite.
struct BatchedOrthonormalizeArgs {
  Matrices a;          // [rows, cols], any strides
  MutableMatrices q;   // [rows, min(rows, cols)], float32
  MutableMatrices r;   // [min(rows, cols), cols], float32; absent when not wanted
};

/// As RangeFinderArgs, of every matrix from the same random signs.
struct BatchedRangeFinderArgs {
  Matrices a;   // [rows, cols], float32, any strides
  Matrices q0;  // [rows, <= size] bases of before, float32; absent: none
  int64_t power_iters = 1;
  uint64_t seed = 0;
  BatchedProduct product;
  MutableMatrices q;  // [rows, size <= min(rows, cols)], float32, contiguous
};

/// As RsvdArgs.
struct BatchedRsvdArgs {
  BatchedRangeFinderArgs range;  // its q is not used: work memory of `basis` columns
  int64_t basis = 0;             // rank <= basis <= min(rows, cols)
  MutableMatrices u;             // [rows, rank], float32, contiguous
  float* s = nullptr;            // [count, rank]
  MutableMatrices v;             // [cols, rank]
};

/// As PolarArgs; on the CPU (polar_stack) not exact, and without a product.
struct BatchedPolarArgs {
  Matrices a;                        // [rows, cols], any strides
  std::vector<double> coefficients;  // 3 * steps
  bool exact = false;
  BatchedProduct product;
  MutableMatrices out;               // as a, its dtype
};

/// As SpectralNormBoundArgs.
struct BatchedNormBoundArgs {
  Matrices weight;  // [rows, cols], any strides
  int64_t iters = 6;
  BatchedProduct product;
  float* bounds = nullptr;  // [count]
};

struct BatchedSketchBackend {
  const char* name;  // "cuda", "cuda_emulated"
  Plan (*plan_sketch_product)(const SketchProductArgs&, const Context&);
  Status (*sketch_product)(const SketchProductArgs&, const Context&);
  Plan (*plan_orthonormalize)(const BatchedOrthonormalizeArgs&, const Context&);
  Status (*orthonormalize)(const BatchedOrthonormalizeArgs&, const Context&);
  Plan (*plan_range_finder)(const BatchedRangeFinderArgs&, const Context&);
  Status (*range_finder)(const BatchedRangeFinderArgs&, const Context&);
  Plan (*plan_rsvd)(const BatchedRsvdArgs&, const Context&);
  Status (*rsvd)(const BatchedRsvdArgs&, const Context&);
  Plan (*plan_polar)(const BatchedPolarArgs&, const Context&);
  Status (*polar)(const BatchedPolarArgs&, const Context&);
  Plan (*plan_spectral_norm_bound)(const BatchedNormBoundArgs&, const Context&);
  Status (*spectral_norm_bound)(const BatchedNormBoundArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
};

/// nullptr when the library was built without it.
const BatchedSketchBackend* sketch_cuda();
const BatchedSketchBackend* sketch_cuda_emulated();

}  // namespace lrk
