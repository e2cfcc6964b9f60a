// The inverse of a small matrix in place by one block of threads, in double, without pivoting: for matrices whose
// symmetric part is positive definite (cpu/orthogonal/small_inverse.h says why that needs no pivots) and triangular ones.
// The one inverse of every kernel: Cayley maps, Householder panels, and the leaves of cayley_rectangular's.
//
// Gauss-Jordan with kInversePanel pivots at a time. With K their rows and columns, D = A[K, K] and P = D^-1 A[K, :]
// (I for A[K, K]): A[K, :] becomes P and every other row A[i, :] loses A[i, K] P (0 for A[i, K]). So the matrix, which may
// lie in shared or in global memory, is read and written once a panel; D, P and A[:, K] lie in shared memory, and a pivot
// costs one barrier.
//
// Limits: size^2 is counted in int. Matrix and scratch fit into a block's shared memory up to 96 rows of its 99 KB on
// sm_86 and sm_89, 128 of 163 KB on sm_80, and 154 of 227 KB on sm_90; larger matrices lie in L2. Size^3 double
// multiply-adds are done by one multiprocessor: 2.1 M of 128 rows, 33 k cycles at the 64 a cycle of sm_90, twice that on
// sm_80 and 32 times on those with 2. That leaves out the chain of pivots, a double division and a barrier each, which
// nothing overlaps: at an estimated 200 cycles a pivot (no GPU has measured it) as much again at 128 rows on sm_90, and
// most of the time below.
#pragma once

#include <algorithm>

#include "device/launch.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kInversePanel = 16, kInverseThreads = kInversePanel * kInversePanel;

/// Doubles between the columns that small_inverse keeps: whole groups of four rows, and odd, so that threads that write
/// one row of all columns do not meet in a bank.
__host__ __device__ constexpr int inverse_columns_stride(int size) { return (size + 3) / 4 * 4 + 1; }

/// The doubles of shared memory that small_inverse works in.
__host__ __device__ constexpr int64_t inverse_scratch(int64_t size) {
  const int64_t rows = size < kInversePanel ? kInversePanel : size;
  return kInversePanel * (kInversePanel + rows + inverse_columns_stride(int(size)));
}

/// Where a kernel's matrices to invert lie: one a block of threads.
struct InverseMemory {
  double* matrices = nullptr;      // nullptr: in shared memory
  bool scratch_in_global = false;  // behind its matrix

  __device__ __forceinline__ double* matrix(int size) const {
    if (matrices == nullptr) return dynamic_shared<double>() + inverse_scratch(size);
    const int64_t stride = int64_t(size) * size + (scratch_in_global ? inverse_scratch(size) : 0);
    return matrices + int64_t(blockIdx.x) * stride;
  }
  __device__ __forceinline__ double* scratch(int size) const {
    return scratch_in_global ? matrix(size) + int64_t(size) * size : dynamic_shared<double>();
  }
};

/// The choice among them, and the launch: in shared memory while a matrix fits, else in global memory, that is in L2, for
/// two blocks a multiprocessor; so is, of the largest, the scratch. Blocks take matrices gridDim.x apart.
struct InversePlace {
  bool in_shared, scratch_in_shared;
  size_t shared_bytes, workspace_bytes;
  int64_t blocks;

  InversePlace(int64_t size, int64_t count, const Context& context) {
    const size_t matrix = size_t(size * size) * sizeof(double);
    const size_t scratch = size_t(inverse_scratch(size)) * sizeof(double);
    const size_t limit = shared_bytes_of_block(context.device);
    in_shared = scratch + matrix <= limit, scratch_in_shared = scratch <= limit;
    shared_bytes = (scratch_in_shared ? scratch : 0) + (in_shared ? matrix : 0);
    const int64_t processors = std::max(1, multiprocessors(context.device));
    blocks = in_shared ? count : std::min(count, 2 * processors);
    workspace_bytes = in_shared ? 0 : size_t(blocks) * (matrix + (scratch_in_shared ? 0 : scratch));
  }

  InverseMemory memory(void* workspace) const {
    return {in_shared ? nullptr : static_cast<double*>(workspace), !scratch_in_shared};
  }
  LaunchConfig config(const Context& context) const {
    return LaunchConfig(dim3(unsigned(blocks)), dim3(kInverseThreads), shared_bytes, context);
  }
};

/// Called by all kInverseThreads threads after a barrier behind whoever wrote `matrix`; ends with one.
__device__ __forceinline__ void small_inverse(double* matrix, int size, double* scratch) {
  constexpr int kPanel = kInversePanel;
  const int thread = int(threadIdx.x), columns_stride = inverse_columns_stride(size);
  double* const pivots = scratch;                                             // D, then D^-1
  double* const rows = pivots + kPanel * kPanel;                              // P [panel, size]; first D's other half
  double* const columns = rows + kPanel * (size < kPanel ? kPanel : size);    // A[:, K], transposed
#pragma unroll 1
  for (int first = 0; first < size; first += kPanel) {
    const int count = size - first < kPanel ? size - first : kPanel;
    const auto in_panel = [&](int index) { return index >= first && index < first + count; };
    {
      const int r = thread / kPanel, c = thread % kPanel;  // past the last pivot D goes on as I
      pivots[thread] = r < count && c < count ? matrix[int64_t(first + r) * size + first + c] : double(r == c);
    }
#pragma unroll 1
    for (int e = thread; e < kPanel * columns_stride; e += kInverseThreads) {
      const int i = e / kPanel, k = e % kPanel;
      const bool exists = i < size && k < count && !in_panel(i);
      columns[k * columns_stride + i] = exists ? matrix[int64_t(i) * size + first + k] : 0.0;
    }
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < kPanel; ++k) {
      const double* const from = k % 2 == 0 ? pivots : rows;
      const int r = thread / kPanel, c = thread % kPanel;
      const double reciprocal = 1.0 / from[k * kPanel + k], scaled = from[k * kPanel + c] * reciprocal;
      const double other = r == k ? scaled : from[thread] - from[r * kPanel + k] * scaled;
      const double in_column = r == k ? reciprocal : -from[r * kPanel + k] * reciprocal;
      (k % 2 == 0 ? rows : pivots)[thread] = c == k ? in_column : other;
      __syncthreads();
    }
#pragma unroll 1
    for (int e = thread; e < kPanel * size; e += kInverseThreads) {
      const int r = e / size, j = e % size;
      double sum = 0.0;
      if (in_panel(j)) {
        sum = pivots[r * kPanel + j - first];
      } else {
        for (int k = 0; k < count; ++k) sum += pivots[r * kPanel + k] * matrix[int64_t(first + k) * size + j];
      }
      rows[r * size + j] = sum;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = thread / 32 * 4; i < size; i += kInverseThreads / 32 * 4) {
#pragma unroll 1
      for (int j = thread % 32; j < size; j += 32) {
        double value[4];
#pragma unroll
        for (int q = 0; q < 4; ++q)
          value[q] = i + q < size && !in_panel(j) ? matrix[int64_t(i + q) * size + j] : 0.0;
#pragma unroll
        for (int k = 0; k < kPanel; ++k) {
          if (k >= count) break;
          const double pivot_row = rows[k * size + j];
#pragma unroll
          for (int q = 0; q < 4; ++q) value[q] -= columns[k * columns_stride + i + q] * pivot_row;
        }
#pragma unroll
        for (int q = 0; q < 4; ++q)
          if (i + q < size)
            matrix[int64_t(i + q) * size + j] = in_panel(i + q) ? rows[(i + q - first) * size + j] : value[q];
      }
    }
    __syncthreads();
  }
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
