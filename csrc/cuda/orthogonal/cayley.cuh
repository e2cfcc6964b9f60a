// R = 2 (I - Q)^-1 - I, and the parts of its series and gradients that are no products (small_product.cuh).
//
// Floor: block^2 / 2 numbers in, block^2 out and block^3 multiply-adds a block: latency, at the usual sizes. One launch
// unpacks Q, inverts I - Q (small_inverse.cuh) and writes R. The inverse is double, as on the CPU and for the same reason:
// its rounding error grows with |Q|, and a step towards orthogonality afterwards would repair R^T R but not R.
#pragma once

#include "cuda/orthogonal/small_inverse.cuh"
#include "cuda/orthogonal/small_product.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

/// Rows of upper triangles, and where element (i, j) of one lies.
struct Triangles {
  ElementView rows;
  int size = 0;

  /// Q(i, j).
  __device__ __forceinline__ float skew(int64_t n, int i, int j) const {
    if (i == j) return 0.0f;
    const int low = i < j ? i : j, high = i < j ? j : i;
    const float value = rows.load(n, int64_t(low) * size - int64_t(low) * (low + 1) / 2 + high - low - 1);
    return i < j ? value : -value;
  }
};

struct CayleyInverseParameters {
  Triangles skew;
  int64_t count = 0;
  InverseMemory memory;
  SquareMatrices<void*> rotation;
};

__global__ void __launch_bounds__(kInverseThreads) cayley_inverse_kernel(const CayleyInverseParameters parameters) {
  const int size = parameters.skew.size, elements = size * size;
  double *const matrix = parameters.memory.matrix(size), *const scratch = parameters.memory.scratch(size);
#pragma unroll 1
  for (int64_t n = blockIdx.x; n < parameters.count; n += gridDim.x) {
#pragma unroll 1
    for (int e = int(threadIdx.x); e < elements; e += kInverseThreads)
      matrix[e] = e / size == e % size ? 1.0 : -double(parameters.skew.skew(n, e / size, e % size));
    __syncthreads();
    small_inverse(matrix, size, scratch);
#pragma unroll 1
    for (int e = int(threadIdx.x); e < elements; e += kInverseThreads)
      parameters.rotation.store(n, e / size, e % size, float(2.0 * matrix[e] - double(e / size == e % size)));
    __syncthreads();
  }
}

/// diagonal I + scale Q, and Q itself where wanted.
struct SkewFillParameters {
  Triangles skew;
  int64_t count = 0;
  float diagonal = 1.0f, scale = 0.0f;
  SquareMatrices<void*> out, q;
};

constexpr int kElementThreads = 256;

__global__ void __launch_bounds__(kElementThreads) skew_fill_kernel(const SkewFillParameters parameters) {
  const int size = parameters.skew.size;
  const int64_t index = int64_t(blockIdx.x) * kElementThreads + threadIdx.x, n = index / (size * size);
  if (n >= parameters.count) return;
  const int i = int(index / size % size), j = int(index % size);
  const float value = parameters.skew.skew(n, i, j);
  if (parameters.q.elements.data != nullptr) parameters.q.store(n, i, j, value);
  float sum = i == j ? parameters.diagonal : 0.0f;
  if (parameters.scale != 0.0f) sum += parameters.scale * value;
  parameters.out.store(n, i, j, sum);
}

/// dskew(n, pair) = scale (dQ(i, j) - dQ(j, i)) for i < j.
struct SkewPartParameters {
  SquareMatrices<const void*> dq;
  int size = 0;
  int64_t count = 0;
  float scale = 1.0f;
  MutableElementView dskew;
};

__global__ void __launch_bounds__(kElementThreads) skew_part_kernel(const SkewPartParameters parameters) {
  const int size = parameters.size;
  const int64_t index = int64_t(blockIdx.x) * kElementThreads + threadIdx.x, n = index / (size * size);
  if (n >= parameters.count) return;
  const int i = int(index / size % size), j = int(index % size);
  if (i >= j) return;
  float value = 0.0f;
  if (parameters.scale != 0.0f) value = parameters.scale * (parameters.dq.load(n, i, j) - parameters.dq.load(n, j, i));
  parameters.dskew.store(n, int64_t(i) * size - int64_t(i) * (i + 1) / 2 + j - i - 1, value);
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
