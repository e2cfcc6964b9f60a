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

struct OrthogonalBackend {
  const char* name;  // "cpu", "cuda", "cuda_emulated"
  Plan (*plan_givens)(const GivensArgs&, const Context&);
  Status (*givens)(const GivensArgs&, const Context&);
  Plan (*plan_givens_backward)(const GivensBackwardArgs&, const Context&);
  Status (*givens_backward)(const GivensBackwardArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
};

const OrthogonalBackend& orthogonal_cpu();
/// nullptr when the library was built without it.
const OrthogonalBackend* orthogonal_cuda();
const OrthogonalBackend* orthogonal_cuda_emulated();

}  // namespace lrk
