// Launches of columns.cuh, which is compiled once.
#pragma once

#include "device/target.cuh"
#include "lrk/sketch_batched.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// Whether a grid is large enough for a copy.
Status check_copy(const MutableMatrices& to, const char* operation);
/// to = from, of any dtypes and strides.
Status copy_matrices(const Matrices& from, const MutableMatrices& to, const Context& context);

/// Of float32 u and v with contiguous rows.
Status fix_signs(const MutableMatrices& u, const MutableMatrices& v, const Context& context);

/// A contiguous float32 stack.
inline MutableMatrices contiguous(void* data, int64_t count, int64_t rows, int64_t cols) {
  return {{data, DType::kFloat32, rows, cols, cols, 1}, count, rows * cols};
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
