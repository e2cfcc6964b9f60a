// Low-rank products, torch-free. Three primitives from which every op of the family, and every gradient, is made:
//
//   project      s = scale * gate . (drop(x) downT)                    [rows, rank]
//   linear       y = x weightT + base + scale * mask . (s upT) + bias  [rows, out]
//   factor_grad  grad = scale * sT drop(x)                             [rank, cols]
//
// forward:   s = project(x, down, gate) (times coreT), y = linear(x, weight, s, up, bias)
// backward:  ds = scale * project(dy, upT), dx = linear(dy, weightT, ds, downT, mask), ddown = factor_grad(ds, x),
//            dupT = factor_grad(s, dy), because every operand may be a transposed view.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {

/// s = scale * gate . p with p = drop(x) downT. Sums are kept in float (double for float64) and rounded once.
struct ProjectArgs {
  MatrixView x;                 // [rows, in], any strides
  MatrixView down;              // [rank, in], x's dtype or float32, any strides
  MatrixView gate;              // [rows, rank] (broadcast by zero strides), x's dtype or float32; absent: 1
  double scale = 1.0;
  Dropout dropout;              // over x's row-major index
  MutableMatrixView s;          // [rows, rank]
  MutableMatrixView projected;  // [rows, rank] p itself; absent when not wanted
};

/// y = x weightT + base + scale * mask . (s upT) + bias. `x` and `weight` are both present or both absent; at most
/// one of `weight` and `base` is present; `base` may be the same memory as `y`. rank 0 (s has no columns) is allowed,
/// as are zero rows; a zero inner dimension contributes zero.
struct LinearArgs {
  MatrixView x;         // [rows, in], any strides
  MatrixView weight;    // [out, in], x's dtype, any strides
  MatrixView base;      // [rows, out], y's dtype, any strides
  MatrixView s;         // [rows, rank], y's dtype or float32
  MatrixView up;        // [out, rank], y's dtype or float32, any strides
  MatrixView bias;      // [1, out], y's dtype or float32; absent: 0
  double scale = 1.0;
  Dropout dropout;      // mask on the low-rank term, over y's row-major index
  MutableMatrixView y;  // [rows, out]
};

/// grad = scale * sT drop(x), reduced over rows in an order that depends on the shape alone (no atomics).
struct FactorGradArgs {
  MatrixView s;            // [rows, rank]
  MatrixView x;            // [rows, cols], any strides
  double scale = 1.0;
  Dropout dropout;         // over x's row-major index
  MutableMatrixView grad;  // [rank, cols], x's dtype or float32, any strides (a transposed view gives d up)
};

/// One implementation of the family. The same callers run every backend: binding, benchmark, tests.
/// Shapes and dtypes are the caller's duty (the torch ops check them before any work).
struct LowRankBackend {
  const char* name;  // "cpu", "cuda", "cuda_emulated"
  Plan (*plan_project)(const ProjectArgs&, const Context&);
  Plan (*plan_linear)(const LinearArgs&, const Context&);
  Plan (*plan_factor_grad)(const FactorGradArgs&, const Context&);
  Status (*project)(const ProjectArgs&, const Context&);
  Status (*linear)(const LinearArgs&, const Context&);
  Status (*factor_grad)(const FactorGradArgs&, const Context&);
  /// Plan::library_gemm without the plan's words: asked before every call by callers that have a library.
  bool (*library_project)(const ProjectArgs&, const Context&);
  bool (*library_linear)(const LinearArgs&, const Context&);
  bool (*library_factor_grad)(const FactorGradArgs&, const Context&);
  /// Every name a plan of this backend may give on this machine: what force_kernel() can mean.
  std::vector<std::string> (*kernel_names)();
};

const LowRankBackend& lowrank_cpu();
/// nullptr when the library was built without it.
const LowRankBackend* lowrank_cuda();
const LowRankBackend* lowrank_cuda_emulated();

}  // namespace lrk
