// What is done to square matrices beside multiplying them, torch-free: inverting small ones without pivoting, and sums of
// a matrix, its transpose and the identity. Products with both make Householder panels and Cayley maps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {

/// The largest matrix that `invert` takes.
constexpr int64_t kMostInvertedRows = 128;

/// Of square matrices that lie one below the other (so rows is a multiple of cols):
///   out = alpha a + beta aT + gamma I, or with strictly_upper triu(alpha a + beta aT, 1) + gamma I.
/// Not in place.
struct MirrorSumArgs {
  MatrixView a;  // [count size, size], any strides
  double alpha = 1.0, beta = 0.0, gamma = 0.0;
  bool strictly_upper = false;
  MutableMatrixView out;  // as a, any dtype and strides
};

/// Inverses of square matrices that lie one below the other, for matrices whose leading principal minors are safely not
/// zero: triangular ones, or ones whose symmetric part is positive definite. No pivot is looked for. NaN passes through.
struct InvertArgs {
  MatrixView matrices;          // [count size, size], size <= kMostInvertedRows, float32 or float64, any strides
  MutableMatrixView inverses;   // as matrices; may be the same memory
};

struct SquareBackend {
  const char* name;  // "cpu", "cuda", "cuda_emulated"
  Plan (*plan_mirror_sum)(const MirrorSumArgs&, const Context&);
  Status (*mirror_sum)(const MirrorSumArgs&, const Context&);
  Plan (*plan_invert)(const InvertArgs&, const Context&);
  Status (*invert)(const InvertArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
};

const SquareBackend& square_cpu();
/// nullptr when the library was built without it.
const SquareBackend* square_cuda();
const SquareBackend* square_cuda_emulated();

}  // namespace lrk
