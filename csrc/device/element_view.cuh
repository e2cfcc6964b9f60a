// A strided matrix of any of the device's float types, read and written one element at a time: for the small operands
// (gates, factors being packed, outputs of odd layout), where a uniform branch on the type costs nothing.
#pragma once

#include "device/numeric.cuh"
#include "lrk/types.h"

namespace lrk {
inline namespace LRK_TARGET {

__device__ __forceinline__ float load_element(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[index];
  if (dtype == DType::kBFloat16) return to_float(static_cast<const BFloat16*>(data)[index]);
  return to_float(static_cast<const Float16*>(data)[index]);
}

__device__ __forceinline__ void store_element(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kFloat32)
    static_cast<float*>(data)[index] = value;
  else if (dtype == DType::kBFloat16)
    static_cast<BFloat16*>(data)[index] = from_float<BFloat16>(value);
  else
    static_cast<Float16*>(data)[index] = from_float<Float16>(value);
}

/// MatrixView and MutableMatrixView as a kernel parameter; `data` is nullptr for an absent operand.
template <class Pointer>
struct Elements {
  Pointer data = nullptr;
  int64_t row_stride = 0, col_stride = 0;
  DType dtype = DType::kFloat32;

  Elements() = default;
  template <class View>
  explicit Elements(const View& view)
      : data(view.data), row_stride(view.row_stride), col_stride(view.col_stride), dtype(view.dtype) {}

  __device__ __forceinline__ float load(int64_t row, int64_t col) const {
    return load_element(data, dtype, row * row_stride + col * col_stride);
  }
  __device__ __forceinline__ void store(int64_t row, int64_t col, float value) const {
    store_element(data, dtype, row * row_stride + col * col_stride, value);
  }
};

using ElementView = Elements<const void*>;
using MutableElementView = Elements<void*>;

}  // namespace LRK_TARGET
}  // namespace lrk
