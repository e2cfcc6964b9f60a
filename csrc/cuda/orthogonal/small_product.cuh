// out_n = alpha A_n B_n + beta C_n + diagonal I for many square matrices of one size, in float32: for Cayley maps, whose
// blocks are too small and too many for a library's GEMM.
//
// A block of threads computes a 32 x 32 tile; operands of any strides and dtype come through shared memory.
#pragma once

#include "device/element_view.cuh"
#include "device/launch.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

/// `data` is nullptr for an absent operand.
template <class Pointer>
struct SquareMatrices {
  Elements<Pointer> elements;
  int64_t matrix_stride = 0;

  SquareMatrices() = default;
  /// Contiguous matrices.
  SquareMatrices(Pointer data, DType dtype, int64_t size) {
    elements.data = data, elements.dtype = dtype, elements.row_stride = size, elements.col_stride = 1;
    matrix_stride = size * size;
  }

  SquareMatrices transposed() const {
    SquareMatrices result = *this;
    result.elements.row_stride = elements.col_stride, result.elements.col_stride = elements.row_stride;
    return result;
  }
  __device__ __forceinline__ float load(int64_t n, int i, int j) const {
    return load_element(elements.data, elements.dtype,
                        n * matrix_stride + i * elements.row_stride + j * elements.col_stride);
  }
  __device__ __forceinline__ void store(int64_t n, int i, int j, float value) const {
    store_element(elements.data, elements.dtype,
                  n * matrix_stride + i * elements.row_stride + j * elements.col_stride, value);
  }
};

struct SmallProductParameters {
  SquareMatrices<const void*> a, b, c;
  SquareMatrices<void*> out;  // may be c
  int size = 0;
  float alpha = 1.0f, beta = 1.0f, diagonal = 0.0f;
};

constexpr int kProductTile = 32, kProductThreads = 256, kProductStride = kProductTile + 1;
constexpr int kProductSharedBytes = 2 * kProductTile * kProductStride * 4;

__global__ void __launch_bounds__(kProductThreads) small_product_kernel(const SmallProductParameters parameters) {
  constexpr int kRows = kProductTile * kProductTile / kProductThreads;  // of a thread
  const int size = parameters.size, tiles = (size + kProductTile - 1) / kProductTile;
  const int64_t n = int64_t(blockIdx.x) / (tiles * tiles);
  const int tile = int(blockIdx.x) % (tiles * tiles);
  const int first_i = tile / tiles * kProductTile, first_j = tile % tiles * kProductTile;
  const int column = int(threadIdx.x) % kProductTile, row = int(threadIdx.x) / kProductTile * kRows;
  float* const a = dynamic_shared<float>();
  float* const b = a + kProductTile * kProductStride;
  float sum[kRows] = {};
#pragma unroll 1
  for (int first_k = 0; first_k < size; first_k += kProductTile) {
#pragma unroll
    for (int q = 0; q < kRows; ++q) {
      const int i = first_i + row + q, k = first_k + column;
      a[(row + q) * kProductStride + column] = i < size && k < size ? parameters.a.load(n, i, k) : 0.0f;
      const int k_of_b = first_k + row + q, j = first_j + column;
      b[(row + q) * kProductStride + column] = k_of_b < size && j < size ? parameters.b.load(n, k_of_b, j) : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < kProductTile; ++k) {
      const float right = b[k * kProductStride + column];
#pragma unroll
      for (int q = 0; q < kRows; ++q) sum[q] = fmaf(a[(row + q) * kProductStride + k], right, sum[q]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int q = 0; q < kRows; ++q) {
    const int i = first_i + row + q, j = first_j + column;
    if (i >= size || j >= size) continue;
    float value = parameters.alpha * sum[q];
    if (parameters.c.elements.data != nullptr) value += parameters.beta * parameters.c.load(n, i, j);
    if (i == j) value += parameters.diagonal;
    parameters.out.store(n, i, j, value);
  }
}

/// `operation` is named by errors.
inline Status launch_small_product(const char* operation, const SmallProductParameters& parameters, int64_t count,
                                   const Context& context) {
  const int64_t tiles = (parameters.size + kProductTile - 1) / kProductTile, blocks = tiles * tiles * count;
  if (Status status = check_grid(operation, blocks); !status.ok()) return status;
  return launch(small_product_kernel,
                LaunchConfig(dim3(unsigned(blocks)), dim3(kProductThreads), kProductSharedBytes, context), parameters);
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
