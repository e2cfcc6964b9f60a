// What is done to whole columns and matrices between products: copies, and the signs of singular vectors.
#pragma once

#include "cuda/sketch/matrix_stack.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kColumnThreads = 256;

/// out = x, of any dtypes and strides. A thread an entry.
struct CopyParameters {
  ConstStack x;
  MutableStack out;
  int64_t rows = 0, cols = 0, count = 0;
};

__global__ void __launch_bounds__(kColumnThreads) copy_kernel(const CopyParameters parameters) {
  const int64_t e = int64_t(blockIdx.x) * kColumnThreads + int(threadIdx.x), elements = parameters.rows * parameters.cols;
  const int64_t n = e / elements, within = e % elements;
  if (n >= parameters.count) return;
  const int64_t i = within / parameters.cols, j = within % parameters.cols;
  parameters.out.store(n, i, j, parameters.x.load(n, i, j));
}

/// Columns of u and v change their signs so that the largest entry of u's is positive, of equal ones the first. 32 columns
/// of a matrix a block, rows dealt to eight groups of 32 threads: memory is read along rows.
struct SignParameters {
  MutableStack u, v;
  int64_t u_rows = 0, v_rows = 0;
  int rank = 0, tiles = 1;  // of 32 columns
};

constexpr size_t kSignsSharedBytes = 2 * kColumnThreads * sizeof(float) + kColumnThreads * sizeof(int64_t);

__global__ void __launch_bounds__(kColumnThreads) column_signs_kernel(const SignParameters parameters) {
  constexpr int kGroups = kColumnThreads / 32;
  const int thread = int(threadIdx.x), group = thread / 32;
  const int64_t n = int64_t(blockIdx.x) / parameters.tiles;
  const int col = int(int64_t(blockIdx.x) % parameters.tiles) * 32 + thread % 32;
  int64_t* const rows = dynamic_shared<int64_t>();
  float* const entries = reinterpret_cast<float*>(rows + kColumnThreads);
  const bool exists = col < parameters.rank;
  float largest = 0.0f;
  int64_t row = 0;
  for (int64_t i = group; exists && i < parameters.u_rows; i += kGroups) {
    const float entry = load_element(parameters.u.elements.data, DType::kFloat32,
                                     n * parameters.u.stride + i * parameters.u.elements.row_stride + col);
    if (fabsf(entry) > fabsf(largest)) largest = entry, row = i;
  }
  entries[thread] = largest, rows[thread] = row;
  __syncthreads();
  for (int other = thread % 32; other < kColumnThreads; other += 32) {
    const float entry = entries[other], magnitude = fabsf(entry);
    const bool is_earlier = magnitude == fabsf(largest) && rows[other] < row;
    if (magnitude > fabsf(largest) || is_earlier) largest = entry, row = rows[other];
  }
  if (!exists || !(largest < 0.0f)) return;
  const auto turn = [&](const MutableStack& stack, int64_t count) {
    float* const column = static_cast<float*>(stack.elements.data) + n * stack.stride + col;
    for (int64_t i = group; i < count; i += kGroups) column[i * stack.elements.row_stride] *= -1.0f;
  };
  turn(parameters.u, parameters.u_rows), turn(parameters.v, parameters.v_rows);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
