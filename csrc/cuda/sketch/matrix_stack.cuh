// Stacks of matrices (lrk/sketch_batched.h) as kernel parameters.
#pragma once

#include "device/element_view.cuh"
#include "device/global_memory.cuh"
#include "lrk/sketch_batched.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// Any strides and dtype.
template <class Pointer>
struct Stack {
  Elements<Pointer> elements;
  int64_t stride = 0;  // between matrices

  Stack() = default;
  explicit Stack(const Matrices& views) : elements(views.first), stride(views.stride) {}
  explicit Stack(const MutableMatrices& views) : elements(views.first), stride(views.stride) {}
  /// Contiguous float32.
  Stack(Pointer data, int64_t rows, int64_t cols) : stride(rows * cols) {
    elements.data = data, elements.row_stride = cols, elements.col_stride = 1;
  }
  __device__ __forceinline__ float load(int64_t n, int64_t row, int64_t col) const {
    return load_element(elements.data, elements.dtype,
                        n * stride + row * elements.row_stride + col * elements.col_stride);
  }
  __device__ __forceinline__ void store(int64_t n, int64_t row, int64_t col, float value) const {
    store_element(elements.data, elements.dtype, n * stride + row * elements.row_stride + col * elements.col_stride,
                  value);
  }
};

using ConstStack = Stack<const void*>;
using MutableStack = Stack<void*>;

inline ConstStack read_only(const MutableStack& stack) {
  ConstStack result;
  result.elements.data = stack.elements.data, result.elements.dtype = stack.elements.dtype;
  result.elements.row_stride = stack.elements.row_stride, result.elements.col_stride = stack.elements.col_stride;
  result.stride = stack.stride;
  return result;
}

/// Names the memory of a stack, a matrix a span.
inline void add_reads(GlobalMemory& memory, const Matrices& stack, const char* name) {
  for (int64_t n = 0; stack.present() && n < stack.count; ++n) {
    MatrixView matrix = stack.first;
    matrix.data = static_cast<const char*>(matrix.data) + n * stack.stride * int64_t(size_of(matrix.dtype));
    memory.reads(matrix, name);
  }
}
inline void add_writes(GlobalMemory& memory, const MutableMatrices& stack, const char* name) {
  for (int64_t n = 0; stack.present() && n < stack.count; ++n) {
    MutableMatrixView matrix = stack.first;
    matrix.data = static_cast<char*>(matrix.data) + n * stack.stride * int64_t(size_of(matrix.dtype));
    memory.writes(matrix, name);
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
