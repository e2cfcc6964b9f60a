// An upper bound of |W|_2 by Gram iteration in float64, its own roundings added: G_0 = WT W, G_t+1 = G_t^2, and back from
// |G_T|_F by b_t = sqrt(b_t+1 + gamma |G_t|_F^2). python/lrkernels/reference/polar.py derives it, cpu/sketch/norm_bound.cpp
// is the same on the CPU; here nothing is scaled before the first product, since float32's squares fit into float64.
//
// Cost: rows * size^2 / 2 multiply-adds for G_0 (tall_product.cuh), size^3 / 2 a step. A G that fits into shared memory
// twice takes all its steps in one launch, a block a matrix: 4 x 4 sums a thread, 8 loads for 16 multiply-adds. Of larger
// ones the library squares; a launch adds the squares of the symmetric part, another scales it.
#pragma once

#include "cuda/sketch/block_fold.cuh"
#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kBoundThreads = kFoldThreads;

struct NormBoundParameters {
  const double* sums = nullptr;  // [count, parts, size, size] on and above the diagonal
  int size = 0, parts = 1, iters = 0;
  int64_t rows = 0;
  double* frobenius = nullptr;  // [count, iters + 1], each divided by its power of two
  int* exponents = nullptr;     // [count, iters + 1]
  double* traces = nullptr;     // [count] of G_0
  float* bounds = nullptr;      // [count]
  // For matrices that lie in global memory:
  double *matrix = nullptr;  // [count, size, size]: G of the step, whole
  int blocks = 1;            // of a matrix
  double* squares = nullptr;  // [count, blocks]
  int step = 0;

  /// Entry (i, j) of the first Gram matrix, symmetric.
  __device__ __forceinline__ double gram(int64_t n, int i, int j) const {
    const int64_t at = i <= j ? int64_t(i) * size + j : int64_t(j) * size + i, elements = int64_t(size) * size;
    double sum = 0.0;
    for (int part = 0; part < parts; ++part) sum += sums[(n * parts + part) * elements + at];
    return sum;
  }
};

/// The bound from what the steps left, by one thread.
__device__ __forceinline__ float norm_bound_of(const NormBoundParameters& parameters, int64_t n) {
  const double* const frobenius = parameters.frobenius + n * (parameters.iters + 1);
  const int* const exponents = parameters.exponents + n * (parameters.iters + 1);
  const double trace = parameters.traces[n], size = double(parameters.size), rows = double(parameters.rows);
  if (trace == 0.0) return 0.0f;
  if (trace - trace != 0.0) return float(0.0 / 0.0);  // NaN or Inf in W
  constexpr double kRounding = 0x1p-53, kRootSlack = 1.0 + 0x1p-50;
  const double gamma = kRounding * (rows + 8.0), slack = 1.0 + kRounding * (rows * size + 8.0);
  double bound = ldexp(frobenius[parameters.iters] * slack, exponents[parameters.iters]);
  for (int step = parameters.iters - 1; step >= 0; --step) {
    const double of_step = frobenius[step] * slack;
    bound = ldexp(sqrt(bound + gamma * of_step * of_step) * kRootSlack, exponents[step]);
  }
  const double exact = sqrt(bound + gamma * trace * slack) * kRootSlack;
  const float rounded = float(exact);
  return double(rounded) < exact ? nextafterf(rounded, INFINITY) : rounded;
}

/// Whole tiles of 4 x 4, and one number between rows that keeps columns in different banks.
constexpr int bound_padded(int64_t size) { return int((size + 3) / 4) * 4; }
constexpr size_t norm_bound_shared_bytes(int64_t size) {
  return size_t(2 * bound_padded(size) * (bound_padded(size) + 1) + kBoundThreads) * sizeof(double);
}

/// A block a matrix.
__global__ void __launch_bounds__(kBoundThreads) norm_bound_kernel(const NormBoundParameters parameters) {
  const int size = parameters.size, padded = bound_padded(size), stride = padded + 1, thread = int(threadIdx.x);
  const int side = padded / 4, tiles = side * (side + 1) / 2;
  const int64_t n = blockIdx.x;
  double* const reduced = dynamic_shared<double>();
  double* g = reduced + kBoundThreads;
  double* next = g + padded * stride;
#pragma unroll 1
  for (int e = thread; e < padded * padded; e += kBoundThreads) {
    const int i = e / padded, j = e % padded;
    g[i * stride + j] = i < size && j < size ? parameters.gram(n, i, j) : 0.0;
  }
  __syncthreads();
  if (thread == 0) {
    double trace = 0.0;
    for (int i = 0; i < size; ++i) trace += g[i * stride + i];
    parameters.traces[n] = trace;
  }
#pragma unroll 1
  for (int step = 0;; ++step) {
    double sum = 0.0;
#pragma unroll 1
    for (int e = thread; e < padded * padded; e += kBoundThreads) {
      const double entry = g[e / padded * stride + e % padded];
      sum += entry * entry;
    }
    const double frobenius = sqrt(fold_block(reduced, sum, add));
    int exponent = 0;
    frexp(frobenius, &exponent);
    if (thread == 0) {
      parameters.frobenius[n * (parameters.iters + 1) + step] = ldexp(frobenius, -exponent);
      parameters.exponents[n * (parameters.iters + 1) + step] = exponent;
    }
    if (step == parameters.iters) break;
    const double scale = ldexp(1.0, -exponent);  // G is at least 1e-90 and at most 1e90
#pragma unroll 1
    for (int e = thread; e < padded * padded; e += kBoundThreads) g[e / padded * stride + e % padded] *= scale;
    __syncthreads();
#pragma unroll 1
    for (int tile = thread; tile < tiles; tile += kBoundThreads) {
      int i, j;
      tile_of_triangle(tile, i, j);
      double product[4][4] = {};
#pragma unroll 2
      for (int k = 0; k < padded; ++k) {
        const double* const row = g + k * stride;
        double left[4], right[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) left[q] = row[4 * i + q], right[q] = row[4 * j + q];
#pragma unroll
        for (int p = 0; p < 4; ++p)
#pragma unroll
          for (int q = 0; q < 4; ++q) product[p][q] += left[p] * right[q];
      }
#pragma unroll
      for (int p = 0; p < 4; ++p)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const int r = 4 * i + p, c = 4 * j + q;
          if (r <= c) next[r * stride + c] = product[p][q], next[c * stride + r] = product[p][q];
        }
    }
    __syncthreads();
    double* const squared = next;
    next = g, g = squared;
  }
  if (thread == 0) parameters.bounds[n] = norm_bound_of(parameters, n);
}

/// --- A matrix in global memory: blocks are matrices by `blocks`.

/// Squares of the entries of G as its lower triangle has them (a GEMM need not round both alike); G_0 is put together here.
__global__ void __launch_bounds__(kBoundThreads) symmetric_squares_kernel(const NormBoundParameters parameters) {
  const int size = parameters.size;
  const int64_t n = int64_t(blockIdx.x) / parameters.blocks;
  double* const g = parameters.matrix + n * size * size;
  double sum = 0.0;
#pragma unroll 1
  for (int i = int(blockIdx.x) % parameters.blocks; i < size; i += parameters.blocks) {
#pragma unroll 1
    for (int j = int(threadIdx.x); j < size; j += kBoundThreads) {
      double* const at = g + int64_t(i) * size + j;
      double entry;
      if (parameters.step == 0)
        entry = parameters.gram(n, i, j), *at = entry;
      else
        entry = i >= j ? *at : g[int64_t(j) * size + i];
      sum += entry * entry;
    }
  }
  sum = fold_block(dynamic_shared<double>(), sum, add);
  if (threadIdx.x == 0) parameters.squares[blockIdx.x] = sum;
}

/// Mirrors G's lower triangle and divides it by a power of two; the last step's is not used any more. A pair of entries is
/// one thread's.
__global__ void __launch_bounds__(kBoundThreads) symmetric_scale_kernel(const NormBoundParameters parameters) {
  const int size = parameters.size, thread = int(threadIdx.x);
  const int64_t n = int64_t(blockIdx.x) / parameters.blocks;
  double* const g = parameters.matrix + n * size * size;
  const double own = thread < parameters.blocks ? parameters.squares[n * parameters.blocks + thread] : 0.0;
  const double frobenius = sqrt(fold_block(dynamic_shared<double>(), own, add));
  int exponent = 0;
  frexp(frobenius, &exponent);
  const bool is_first = int(blockIdx.x) % parameters.blocks == 0 && thread == 0;
  if (is_first) {
    parameters.frobenius[n * (parameters.iters + 1) + parameters.step] = ldexp(frobenius, -exponent);
    parameters.exponents[n * (parameters.iters + 1) + parameters.step] = exponent;
    if (parameters.step == 0) {
      double trace = 0.0;
      for (int i = 0; i < size; ++i) trace += parameters.gram(n, i, i);
      parameters.traces[n] = trace;
    }
    if (parameters.step == parameters.iters) parameters.bounds[n] = norm_bound_of(parameters, n);
  }
  if (parameters.step == parameters.iters) return;
  const double scale = ldexp(1.0, -exponent);
#pragma unroll 1
  for (int i = int(blockIdx.x) % parameters.blocks; i < size; i += parameters.blocks) {
#pragma unroll 1
    for (int j = thread; j <= i; j += kBoundThreads) {
      const double entry = g[int64_t(i) * size + j] * scale;
      g[int64_t(i) * size + j] = entry, g[int64_t(j) * size + i] = entry;
    }
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
