// What a block of threads agrees on, in an order that is always the same.
#pragma once

#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kFoldThreads = 256;

/// NaN wins and stays: what is not finite shows in the result.
__device__ __forceinline__ float larger_or_nan(float a, float b) { return b > a || b != b ? b : a; }
__device__ __forceinline__ double add(double a, double b) { return a + b; }

/// fold over `value`, one a thread, in a tree; `values` is shared memory for one a thread. All kFoldThreads threads get it;
/// begins and ends with what `values` needs of barriers.
template <class T, class Fold>
__device__ __forceinline__ T fold_block(T* values, T value, const Fold& fold) {
  const int thread = int(threadIdx.x);
  values[thread] = value;
  __syncthreads();
#pragma unroll 1
  for (int half = kFoldThreads / 2; half > 0; half /= 2) {
    if (thread < half) values[thread] = fold(values[thread], values[thread + half]);
    __syncthreads();
  }
  const T result = values[0];
  __syncthreads();
  return result;
}

/// Tile (i, j), j >= i, of a triangle of tiles counted column by column.
__device__ __forceinline__ void tile_of_triangle(int tile, int& i, int& j) {
  for (j = 0, i = tile; i > j;) i -= ++j;
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
