// One pass of CholeskyQR: from G = AT A, in float64, the upper triangle R by which A is divided; a block of threads a matrix.
//
// Repeated (Yamamoto et al., ETNA 2015), passes end with Q = A R^-1 R'^-1 ...; all are triangles with positive diagonals, so
// the product is the QR decomposition of A. What a pass cannot do yet it defers: a column whose pivot (squared, of unit
// columns) is below 1e-11 is not known well enough to be subtracted from others. It loses what it shares with the columns
// before it and is scaled up, and its row of R is otherwise zero; the next pass, whose Gram matrix is made from the column
// that is left, sees it at full precision. Every pass so resolves another five digits of the condition number, up to what
// the matrix's own numbers determine; a column of which fewer than 13 digits are left, or nothing, depends on those before,
// and becomes random signs (the caller's substitution writes them). Nothing is decided by the host: finished[n] becomes the
// pass after whose division A is orthonormal to rounding, which is where G is diagonally dominant.
//
// Cost: cols^3 / 6 multiply-adds by one multiprocessor, 1.2 M of 192 columns: 18 k cycles at 64 a cycle; 16 pivots at a
// time, so that operands come from shared memory once for eight multiply-adds and a pivot costs two barriers. The matrix
// lies in shared memory up to 141 columns on sm_80 and 169 on sm_90, else in L2.
#pragma once

#include "cuda/sketch/tall_product_launch.cuh"
#include "device/sketch_rules.h"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kCholeskyPanel = 16, kCholeskyThreads = kCholeskyPanel * kCholeskyPanel;
constexpr int kUnfinished = 0x7fffffff;
constexpr double kDeferredPivot = 1e-13;  // square, of unit columns: the least that a deferred column is scaled up by
constexpr double kDominance = 0.5;  // the most that the entries beside a unit diagonal add up to where one pass is enough

struct CholeskyParameters {
  const double* sums = nullptr;  // G's parts, of which the tiles on and above the diagonal are there
  int size = 0, parts = 1, pass = 0;
  double* triangle = nullptr;     // [count, size, size]; below the diagonal 0
  bool in_shared = true;          // where the work is done, else in `triangle`
  double* per_unit = nullptr;     // [count, size]: what a column of length 1 is of the first pass's, in lengths
  int* replaced = nullptr;        // [count, size]: whether the column becomes random signs
  int* finished = nullptr;        // [count]
};

/// In shared memory: lengths and sums of the columns, the panel's pivots, whether they are deferred, and G.
constexpr size_t cholesky_shared_bytes(int64_t size, bool in_shared) {
  return size_t(2 * size + kCholeskyThreads + kCholeskyPanel + (in_shared ? size * size : 0)) * sizeof(double);
}

/// The upper triangle of the unit-diagonal `g` [size, size] becomes R; what lies below is not touched. Deferred rows are 0
/// but for their diagonals. Called by all threads after a barrier; ends with one.
__device__ __forceinline__ void deferred_cholesky(double* g, int size, double* pivots, double* deferred) {
  constexpr int kPanel = kCholeskyPanel;
  const int thread = int(threadIdx.x), r = thread / kPanel, c = thread % kPanel;
#pragma unroll 1
  for (int first = 0; first < size; first += kPanel) {
    const int count = size - first < kPanel ? size - first : kPanel;
    // The panel's own block, [r][c] in `pivots`; past the last column it goes on as I.
    double own = r == c ? 1.0 : 0.0;
    if (r < count && c < count) own = r <= c ? g[int64_t(first + r) * size + first + c] : 0.0;
    pivots[thread] = own;
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < kPanel; ++k) {
      const double pivot = pivots[k * kPanel + k], above = pivots[k * kPanel + r], beside = pivots[k * kPanel + c];
      const bool defer = !(pivot > kLeastPivot);
      const double root = sqrt(defer ? (pivot > kDeferredPivot ? pivot : kDeferredPivot) : pivot);
      __syncthreads();
      if (r == k) {
        own = c == k ? root : c < k || defer ? 0.0 : own / root;
        if (c == k) deferred[k] = defer ? 1.0 : 0.0;
      } else if (r > k && c >= r && !defer) {
        own -= above * beside / pivot;
      }
      pivots[thread] = own;
      __syncthreads();
    }
    // The panel's rows to the right: a thread a column.
#pragma unroll 1
    for (int j = first + kPanel + thread; j < size; j += kCholeskyThreads) {
      double column[kPanel];
#pragma unroll
      for (int k = 0; k < kPanel; ++k) column[k] = g[int64_t(first + k) * size + j];
#pragma unroll
      for (int k = 0; k < kPanel; ++k) {
#pragma unroll
        for (int i = 0; i < k; ++i) column[k] -= pivots[i * kPanel + k] * column[i];
        column[k] = deferred[k] != 0.0 ? 0.0 : column[k] / pivots[k * kPanel + k];
      }
#pragma unroll
      for (int k = 0; k < kPanel; ++k) g[int64_t(first + k) * size + j] = column[k];
    }
    if (r < count && c < count && r <= c) g[int64_t(first + r) * size + first + c] = own;
    __syncthreads();
    // What is left of the rows below: four rows and two columns a thread.
#pragma unroll 1
    for (int i = first + kPanel + thread / 32 * 4; i < size; i += kCholeskyThreads / 32 * 4) {
#pragma unroll 1
      for (int j = i / 64 * 64 + thread % 32; j < size; j += 64) {
        double value[4][2] = {};
#pragma unroll
        for (int k = 0; k < kPanel; ++k) {
          const double* const row = g + int64_t(first + k) * size;
          const double left = row[j], right = j + 32 < size ? row[j + 32] : 0.0;
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const double factor = i + q < size ? row[i + q] : 0.0;
            value[q][0] += factor * left, value[q][1] += factor * right;
          }
        }
#pragma unroll
        for (int q = 0; q < 4; ++q)
#pragma unroll
          for (int p = 0; p < 2; ++p) {
            const int column = j + 32 * p;
            if (i + q <= column && column < size) g[int64_t(i + q) * size + column] -= value[q][p];
          }
      }
    }
    __syncthreads();
  }
}

/// A block a matrix.
__global__ void __launch_bounds__(kCholeskyThreads) cholesky_kernel(const CholeskyParameters parameters) {
  const int size = parameters.size, thread = int(threadIdx.x);
  const int64_t n = blockIdx.x, elements = int64_t(size) * size;
  if (parameters.pass > 0 && parameters.finished[n] < parameters.pass) return;
  double* const lengths = dynamic_shared<double>();
  double* const besides = lengths + size;
  double* const pivots = besides + size;
  double* const deferred = pivots + kCholeskyThreads;
  double* const triangle = parameters.triangle + n * elements;
  double* const g = parameters.in_shared ? deferred + kCholeskyPanel : triangle;
  const double* const sums = parameters.sums + n * parameters.parts * elements;
  double* const per_unit = parameters.per_unit + n * size;
  int* const replaced = parameters.replaced + n * size;

#pragma unroll 1
  for (int e = thread; e < int(elements); e += kCholeskyThreads) {
    const int i = e / size, j = e % size, at = i <= j ? e : j * size + i;
    double sum = 0.0;
#pragma unroll 4
    for (int part = 0; part < parameters.parts; ++part) sum += sums[int64_t(part) * elements + at];
    g[e] = sum;
  }
  __syncthreads();
  // Lengths of the columns, 0 of those that become random signs; anything not finite is in one of them.
  double poison = 0.0;
  for (int j = thread; j < size; j += kCholeskyThreads) {
    const double length = sqrt(g[int64_t(j) * size + j]);
    poison += 0.0 * length;
    const double unit = parameters.pass == 0 ? 1.0 / length : per_unit[j];
    const bool dependent = !(length * unit > kDependent);
    lengths[j] = dependent ? 0.0 : length;
    per_unit[j] = unit;
  }
  pivots[thread] = poison;
  __syncthreads();
#pragma unroll 1
  for (int half = kCholeskyThreads / 2; half > 0; half /= 2) {
    if (thread < half) pivots[thread] += pivots[thread + half];
    __syncthreads();
  }
  const bool is_finite = pivots[0] == 0.0;
  __syncthreads();
#pragma unroll 1
  for (int e = thread; e < int(elements); e += kCholeskyThreads) {
    const int i = e / size, j = e % size;
    const double scale = lengths[i] * lengths[j];
    g[e] = i == j ? 1.0 : scale > 0.0 ? g[e] / lengths[i] / lengths[j] : 0.0;
  }
  __syncthreads();
  for (int j = thread; j < size; j += kCholeskyThreads) {
    double sum = lengths[j] > 0.0 ? 0.0 : 1.0;  // random signs need another pass
    for (int i = 0; i < size; ++i)
      if (i != j) sum += fabs(g[int64_t(i) * size + j]);
    besides[j] = sum;
  }
  __syncthreads();
  if (thread == 0) {
    double most = 0.0;
    for (int j = 0; j < size; ++j) most = fmax(most, besides[j]);
    parameters.finished[n] = most <= kDominance || !is_finite ? parameters.pass : kUnfinished;
  }
  deferred_cholesky(g, size, pivots, deferred);
#pragma unroll 1
  for (int e = thread; e < int(elements); e += kCholeskyThreads) {
    const int i = e / size, j = e % size;
    double value = i > j ? 0.0 : g[e] * lengths[j];
    if (i == j && !(value > 0.0)) value = 1.0;  // of random signs
    triangle[e] = is_finite ? value : 0.0 / 0.0;
  }
  __syncthreads();
  for (int j = thread; j < size; j += kCholeskyThreads) {
    const bool dependent = !(lengths[j] > 0.0);
    per_unit[j] = dependent ? 1.0 : per_unit[j] * triangle[int64_t(j) * size + j];
    replaced[j] = int(dependent && is_finite);  // of what is not finite all becomes NaN
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
