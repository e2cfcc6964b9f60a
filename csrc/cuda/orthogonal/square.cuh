// Sums of a square matrix with its transpose and the identity, and inverses of small matrices without pivoting.
//
// mirror_sum is bound by memory: a and its mirror image are read once each, along their rows; the mirrored tile is
// turned round in shared memory. invert is small_inverse.cuh's, from and to float32: a block of threads a matrix.
#pragma once

#include "cuda/orthogonal/small_inverse.cuh"
#include "device/element_view.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kMirrorTile = 32, kMirrorRows = 8;  // threads: a tile's row, and how many rows at once

struct MirrorSumParameters {
  ElementView a;
  MutableElementView out;
  int size = 0;
  float alpha = 1.0f, beta = 0.0f, gamma = 0.0f;
  bool strictly_upper = false;
};

/// Blocks: tiles of columns, tiles of rows, matrices.
__global__ void __launch_bounds__(kMirrorTile* kMirrorRows) mirror_sum_kernel(const MirrorSumParameters parameters) {
  constexpr int kStride = kMirrorTile + 1;
  float* const mirrored = dynamic_shared<float>();
  const int size = parameters.size, x = int(threadIdx.x) % kMirrorTile, y = int(threadIdx.x) / kMirrorTile;
  const int first_row = int(blockIdx.y) * kMirrorTile, first_col = int(blockIdx.x) * kMirrorTile;
  const int64_t top = int64_t(blockIdx.z) * size;
  if (parameters.beta != 0.0f) {
    for (int i = y; i < kMirrorTile; i += kMirrorRows) {
      const int row = first_col + i, col = first_row + x;
      if (row < size && col < size) mirrored[i * kStride + x] = parameters.a.load(top + row, col);
    }
    __syncthreads();
  }
  const int col = first_col + x;
  for (int i = y; i < kMirrorTile; i += kMirrorRows) {
    const int row = first_row + i;
    if (row >= size || col >= size) continue;
    float sum = parameters.alpha * parameters.a.load(top + row, col);
    if (parameters.beta != 0.0f) sum += parameters.beta * mirrored[x * kStride + i];
    if (parameters.strictly_upper && col <= row) sum = 0.0f;
    if (row == col) sum += parameters.gamma;
    parameters.out.store(top + row, col, sum);
  }
}

struct InvertParameters {
  ElementView matrices;
  MutableElementView inverses;
  int size = 0;
  int64_t count = 0;
  InverseMemory memory;
};

__global__ void __launch_bounds__(kInverseThreads) invert_kernel(const InvertParameters parameters) {
  const int size = parameters.size, elements = size * size;
  double *const matrix = parameters.memory.matrix(size), *const scratch = parameters.memory.scratch(size);
#pragma unroll 1
  for (int64_t n = blockIdx.x; n < parameters.count; n += gridDim.x) {
#pragma unroll 1
    for (int e = int(threadIdx.x); e < elements; e += kInverseThreads)
      matrix[e] = double(parameters.matrices.load(n * size + e / size, e % size));
    __syncthreads();
    small_inverse(matrix, size, scratch);
#pragma unroll 1
    for (int e = int(threadIdx.x); e < elements; e += kInverseThreads)
      parameters.inverses.store(n * size + e / size, e % size, float(matrix[e]));
    __syncthreads();
  }
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
