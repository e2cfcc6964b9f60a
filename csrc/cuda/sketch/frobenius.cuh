// x = A / |A|_F of a stack of matrices too large for one block of threads, by the largest entry first, so that squares
// neither overflow nor vanish; and the element-wise steps between products of a library.
//
// Three launches, each bound by reading A: partial maxima, partial sums of squares of what is at most 1, the division. A
// block adds what the launch before left of all blocks, in order.
#pragma once

#include "cuda/sketch/block_fold.cuh"
#include "cuda/sketch/matrix_stack.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kNormThreads = kFoldThreads, kMostNormBlocks = 256;  // blocks of a matrix: at most as many as there are threads

struct FrobeniusParameters {
  ConstStack a;       // [rows, cols]
  MutableStack x;
  int64_t rows = 0, cols = 0;
  int blocks = 1;               // of a matrix
  float* largest = nullptr;     // [count, blocks]
  double* squares = nullptr;    // [count, blocks]

  /// Calls body(row, column) for the entries of this thread.
  template <class Body>
  __device__ __forceinline__ void for_entries(const Body& body) const {
    const int64_t count = rows * cols, step = int64_t(blocks) * kNormThreads;
    const bool along_rows = a.elements.col_stride == 1;
    for (int64_t e = int64_t(blockIdx.x) % blocks * kNormThreads + int(threadIdx.x); e < count; e += step)
      along_rows ? body(e / cols, e % cols) : body(e % rows, e / rows);
  }
};

__device__ __forceinline__ float largest_of(const FrobeniusParameters& parameters, int64_t n) {
  const int thread = int(threadIdx.x);
  const float own = thread < parameters.blocks ? parameters.largest[n * parameters.blocks + thread] : 0.0f;
  const float largest = fold_block(dynamic_shared<float>(), own, larger_or_nan);
  return largest == 0.0f ? 1.0f : largest;
}

/// Blocks: matrices by `blocks`.
__global__ void __launch_bounds__(kNormThreads) largest_entry_kernel(const FrobeniusParameters parameters) {
  const int64_t n = int64_t(blockIdx.x) / parameters.blocks;
  float largest = 0.0f;
  parameters.for_entries([&](int64_t i, int64_t j) { largest = larger_or_nan(largest, fabsf(parameters.a.load(n, i, j))); });
  largest = fold_block(dynamic_shared<float>(), largest, larger_or_nan);
  if (threadIdx.x == 0) parameters.largest[blockIdx.x] = largest;
}

__global__ void __launch_bounds__(kNormThreads) sum_of_squares_kernel(const FrobeniusParameters parameters) {
  const int64_t n = int64_t(blockIdx.x) / parameters.blocks;
  const float divisor = largest_of(parameters, n);
  double sum = 0.0;
  parameters.for_entries([&](int64_t i, int64_t j) {
    const double entry = double(parameters.a.load(n, i, j) / divisor);
    sum += entry * entry;
  });
  sum = fold_block(dynamic_shared<double>(), sum, add);
  if (threadIdx.x == 0) parameters.squares[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kNormThreads) divide_by_norm_kernel(const FrobeniusParameters parameters) {
  const int64_t n = int64_t(blockIdx.x) / parameters.blocks;
  const int thread = int(threadIdx.x);
  const float divisor = largest_of(parameters, n);
  const double own = thread < parameters.blocks ? parameters.squares[n * parameters.blocks + thread] : 0.0;
  const double sum = fold_block(dynamic_shared<double>(), own, add);
  const float norm = sum == 0.0 ? 1.0f : float(sqrt(sum));
  parameters.for_entries([&](int64_t i, int64_t j) {
    parameters.x.store(n, i, j, parameters.a.load(n, i, j) / divisor / norm);
  });
}

/// m <- c0 I + c1 m + c2 square, contiguous [count, rows, rows]; without a square c2 is 0.
struct PolynomialParameters {
  float* m = nullptr;
  const float* square = nullptr;
  int64_t rows = 0, elements = 0;
  float c0 = 0.0f, c1 = 0.0f, c2 = 0.0f;
};

__global__ void __launch_bounds__(kNormThreads) polynomial_kernel(const PolynomialParameters parameters) {
  const int64_t e = int64_t(blockIdx.x) * kNormThreads + int(threadIdx.x);
  if (e >= parameters.elements) return;
  const int64_t within = e % (parameters.rows * parameters.rows);
  float value = parameters.c1 * parameters.m[e];
  if (parameters.square != nullptr) value += parameters.c2 * parameters.square[e];
  if (within / parameters.rows == within % parameters.rows) value += parameters.c0;
  parameters.m[e] = value;
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
