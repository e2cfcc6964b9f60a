// Unit rows of vectors, and the gradient through the norm: a block a row, which it reads three times (its largest entry,
// its norm, the result), all but the first time from a cache. Bound by reading the vectors; there are few of them.
#pragma once

#include "device/element_view.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kUnitRowThreads = 256;

struct UnitRowsParameters {
  ElementView vectors;
  MutableElementView units, lengths;
  int64_t features = 0;
  int count = 0;  // rows of `units` from here on are zero
};

struct UnitRowsBackwardParameters {
  ElementView units, lengths, first, second;
  MutableElementView dvectors;
  int64_t features = 0;
};

struct Larger {
  __device__ __forceinline__ float operator()(float a, float b) const { return a > b ? a : b; }
};
struct Plus {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

/// Combines a value of every thread, in an order of its own; all get the result.
template <class Combine>
__device__ __forceinline__ float combine_block(float value, float* shared, const Combine& combine) {
  const int thread = int(threadIdx.x);
  shared[thread] = value;
  __syncthreads();
  for (int half = kUnitRowThreads / 2; half > 0; half /= 2) {
    if (thread < half) shared[thread] = combine(shared[thread], shared[thread + half]);
    __syncthreads();
  }
  const float result = shared[0];
  __syncthreads();
  return result;
}

__global__ void __launch_bounds__(kUnitRowThreads) unit_rows_kernel(const UnitRowsParameters parameters) {
  float* const shared = dynamic_shared<float>();
  const int row = int(blockIdx.x), thread = int(threadIdx.x);
  const bool exists = row < parameters.count;
  float largest = 0.0f;  // NaN is passed over
  for (int64_t j = thread; exists && j < parameters.features; j += kUnitRowThreads)
    largest = Larger{}(fabsf(parameters.vectors.load(row, j)), largest);
  largest = combine_block(largest, shared, Larger{});
  const float divisor = largest > 0.0f ? largest : 1.0f;
  float squares = 0.0f;
  for (int64_t j = thread; exists && j < parameters.features; j += kUnitRowThreads) {
    const float value = parameters.vectors.load(row, j) / divisor;
    squares = fmaf(value, value, squares);
  }
  const float norm = sqrtf(combine_block(squares, shared, Plus{}));
  const bool zero = norm == 0.0f;
  for (int64_t j = thread; j < parameters.features; j += kUnitRowThreads)
    parameters.units.store(row, j, exists && !zero ? parameters.vectors.load(row, j) / divisor / norm : 0.0f);
  if (exists && thread == 0) {
    parameters.lengths.store(row, 0, largest == 0.0f ? norm : largest);  // NaN, of nothing but NaN
    parameters.lengths.store(row, 1, norm);
  }
}

__global__ void __launch_bounds__(kUnitRowThreads)
    unit_rows_backward_kernel(const UnitRowsBackwardParameters parameters) {
  float* const shared = dynamic_shared<float>();
  const int row = int(blockIdx.x), thread = int(threadIdx.x);
  const float largest = parameters.lengths.load(row, 0), norm = parameters.lengths.load(row, 1);
  const bool zero = largest == 0.0f;
  const auto gradient = [&](int64_t j) { return parameters.first.load(row, j) + parameters.second.load(row, j); };
  float along = 0.0f;
  for (int64_t j = thread; !zero && j < parameters.features; j += kUnitRowThreads)
    along = fmaf(gradient(j), parameters.units.load(row, j), along);
  along = combine_block(along, shared, Plus{});
  for (int64_t j = thread; j < parameters.features; j += kUnitRowThreads) {
    float value = 0.0f;
    if (!zero) value = (gradient(j) - along * parameters.units.load(row, j)) / norm / largest;
    parameters.dvectors.store(row, j, value);
  }
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
