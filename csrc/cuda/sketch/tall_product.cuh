// xT y in float64 of tall float32 (or half) matrices with few columns: Gram matrices, and QT A.
//
// Why float64: CholeskyQR squares the condition number, and the digits that are lost so are the 29 that float64 has more;
// the products of two float32 numbers are exact in it. Cost: rows * x_cols * y_cols multiply-adds (half of it for a Gram
// matrix) at the 64 a cycle and multiprocessor of sm_80 and sm_90: 75 M for 4096 x 192, 9 k cycles of 132 multiprocessors.
// Idea: a block of threads adds a 32 x 32 tile over a part of the rows, so that one matrix fills a device; numbers become
// double on their way into shared memory, once for the 32 products of each. Who needs the sum adds the parts in order.
#pragma once

#include "cuda/sketch/tall_product_launch.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kTallTile = 32, kTallSide = 8, kTallThreads = kTallSide * kTallSide;
constexpr int kTallDepth = 32, kTallStride = kTallTile + 1;  // rows at a time; doubles between them
constexpr size_t kTallSharedBytes = 2 * kTallDepth * kTallStride * sizeof(double);

struct TallProductParameters {
  ConstStack x, y;
  int64_t rows = 0, length = 0;  // of a part
  int x_cols = 0, y_cols = 0, x_tiles = 0, y_tiles = 0, parts = 1;
  double* sums = nullptr;  // [count, parts, x_cols, y_cols], of which tiles below the diagonal are not written
  Progress progress;
};

/// Blocks: matrices by parts by tiles, the tiles first.
__global__ void __launch_bounds__(kTallThreads) tall_product_kernel(const TallProductParameters parameters) {
  constexpr int kPerThread = kTallTile / kTallSide;
  const int thread = int(threadIdx.x), row = thread / kTallSide, col = thread % kTallSide;
  const int64_t tiles = int64_t(parameters.x_tiles) * parameters.y_tiles;
  const int tile = int(int64_t(blockIdx.x) % tiles);
  const int first_i = tile / parameters.y_tiles * kTallTile, first_j = tile % parameters.y_tiles * kTallTile;
  const int64_t rest = int64_t(blockIdx.x) / tiles, part = rest % parameters.parts, n = rest / parameters.parts;
  if (parameters.progress.is_over(n) || first_i > first_j) return;
  const int64_t begin = part * parameters.length;
  const int64_t end = begin + parameters.length < parameters.rows ? begin + parameters.length : parameters.rows;
  double* const a = dynamic_shared<double>();
  double* const b = a + kTallDepth * kTallStride;
  double sum[kPerThread][kPerThread] = {};
#pragma unroll 1
  for (int64_t first = begin; first < end; first += kTallDepth) {
#pragma unroll 4
    for (int e = thread; e < kTallTile * kTallDepth; e += kTallThreads) {
      const int k = e / kTallTile, c = e % kTallTile;
      const bool exists = first + k < end;
      a[k * kTallStride + c] =
          exists && first_i + c < parameters.x_cols ? double(parameters.x.load(n, first + k, first_i + c)) : 0.0;
      b[k * kTallStride + c] =
          exists && first_j + c < parameters.y_cols ? double(parameters.y.load(n, first + k, first_j + c)) : 0.0;
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < kTallDepth; ++k) {
      double left[kPerThread], right[kPerThread];
#pragma unroll
      for (int q = 0; q < kPerThread; ++q) {
        left[q] = a[k * kTallStride + row + q * kTallSide], right[q] = b[k * kTallStride + col + q * kTallSide];
      }
#pragma unroll
      for (int p = 0; p < kPerThread; ++p)
#pragma unroll
        for (int q = 0; q < kPerThread; ++q) sum[p][q] += left[p] * right[q];
    }
    __syncthreads();
  }
  double* const sums = parameters.sums + (n * parameters.parts + part) * parameters.x_cols * parameters.y_cols;
#pragma unroll
  for (int p = 0; p < kPerThread; ++p) {
#pragma unroll
    for (int q = 0; q < kPerThread; ++q) {
      const int i = first_i + row + p * kTallSide, j = first_j + col + q * kTallSide;
      if (i < parameters.x_cols && j < parameters.y_cols) sums[int64_t(i) * parameters.y_cols + j] = sum[p][q];
    }
  }
}

/// r [x_cols, y_cols] = what is on and above the diagonal of the sum, and no less than 0 on it: of QT A with Q of A's QR
/// all else is rounding.
struct TriangleSumParameters {
  const double* sums = nullptr;
  int x_cols = 0, y_cols = 0, parts = 1;
  int64_t count = 0;
  MutableStack r;
};

constexpr int kTriangleSumThreads = 256;

__global__ void __launch_bounds__(kTriangleSumThreads) triangle_sum_kernel(const TriangleSumParameters parameters) {
  const int64_t elements = int64_t(parameters.x_cols) * parameters.y_cols;
  const int64_t index = int64_t(blockIdx.x) * kTriangleSumThreads + int(threadIdx.x), n = index / elements;
  if (n >= parameters.count) return;
  const int64_t e = index % elements, i = e / parameters.y_cols, j = e % parameters.y_cols;
  double sum = 0.0;
  if (i <= j) {
    for (int part = 0; part < parameters.parts; ++part) sum += parameters.sums[(n * parameters.parts + part) * elements + e];
    if (i == j && sum < 0.0) sum = 0.0;  // of a column that depends on those before
  }
  parameters.r.store(n, i, j, float(sum));
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
