// Sums of a square matrix with its transpose and the identity, and inverses of small matrices without pivoting.
//
// mirror_sum is bound by memory: a and its mirror image are read once each, along their rows; the mirrored tile is
// turned round in shared memory. invert keeps a matrix in shared memory, a block a matrix: 2 size^3 operations between
// 2 size barriers, so it is bound by latency, and many matrices make a launch worth its while.
#pragma once

#include "device/element_view.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kMirrorTile = 32, kMirrorRows = 8;  // threads: a tile's row, and how many rows at once
constexpr int kInvertThreads = 256;

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
};

constexpr int kInvertPadding = 1;  // floats a row, so that a column lies in all banks
constexpr size_t invert_shared_bytes(int64_t size) {
  return size_t(size * (size + kInvertPadding) + 2 * size) * sizeof(float);
}

/// Gauss-Jordan elimination in place: for every pivot k, row k is divided by it, with 1 in the pivot's place, and every
/// other row i loses a_ik times it, with 0 in the place of a_ik.
__global__ void __launch_bounds__(kInvertThreads) invert_kernel(const InvertParameters parameters) {
  const int size = parameters.size, stride = size + kInvertPadding, thread = int(threadIdx.x);
  float* const matrix = dynamic_shared<float>();
  float *const pivot_row = matrix + size * stride, *const factors = pivot_row + size;
  const int64_t top = int64_t(blockIdx.x) * size;
  for (int e = thread; e < size * size; e += kInvertThreads)
    matrix[e / size * stride + e % size] = parameters.matrices.load(top + e / size, e % size);
  for (int k = 0; k < size; ++k) {
    __syncthreads();
    const float reciprocal = 1.0f / matrix[k * stride + k];
    for (int i = thread; i < size; i += kInvertThreads) {
      pivot_row[i] = i == k ? reciprocal : matrix[k * stride + i] * reciprocal;
      factors[i] = matrix[i * stride + k];
    }
    __syncthreads();
    for (int e = thread; e < size * size; e += kInvertThreads) {
      const int i = e / size, j = e % size;
      float& value = matrix[i * stride + j];
      value = i == k ? pivot_row[j] : fmaf(-factors[i], pivot_row[j], j == k ? 0.0f : value);
    }
  }
  __syncthreads();
  for (int e = thread; e < size * size; e += kInvertThreads)
    parameters.inverses.store(top + e / size, e % size, matrix[e / size * stride + e % size]);
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
