// y = x Omega and y = x OmegaT with random signs that are made from Philox where they are used: no matrix is stored.
// Which word makes which entry: python/lrkernels/reference/sketch.py.
//
// Rademacher. Floor: x and y once, rows * features * size additions. An fp32 GEMM does as many multiply-adds, so the signs
// must cost less than they save: a word of Philox is 32 entries of a row of Omega, a block of it four such words, and the
// 16 blocks that a tile of 64 x 64 signs takes are made once by a block of threads (a call for 256 of its 131072
// additions). A thread turns a bit into +-1 once for the eight rows of x it adds to: 9 instructions for 8 additions.
//
// Sparse signs. Floor: x and y once, 8 rows * features additions. y = x Omega scatters: eight lanes take the eight entries
// of a feature, whose columns differ, and a warp four rows at once, into sums in shared memory. y = x OmegaT gathers.
//
// Of a stack all rows are one list, wherever they lie: a tile of 32 may belong to several matrices.
#pragma once

#include "cuda/sketch/matrix_stack.cuh"
#include "device/smem.cuh"
#include "device/sparse_sign.h"
#include "device/vector.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kSignRows = 32, kSignCols = 64, kSignDepth = 64, kSignThreads = 256;
constexpr int kRowsOfThread = 8, kSignStride = kSignRows + 4;  // floats: keeps four rows a 16-byte load
constexpr int kSignGroups = 2;                                 // of 32 columns (of the adjoint: of 32 terms) in a tile
constexpr int kSignBlocks = kSignDepth / 4 + 1;                // of Philox that 64 words at any offset are spread over
constexpr size_t kRowOffsetsBytes = kSignRows * sizeof(int64_t);
constexpr size_t kSignSharedBytes = kRowOffsetsBytes + kSignDepth * kSignStride * sizeof(float) +
                                    kSignGroups * kSignDepth * sizeof(uint32_t);

/// Rows of a stack in one list.
template <class Pointer>
struct StackedRows {
  Stack<Pointer> stack;
  int64_t rows = 1;  // of a matrix

  /// The element of column 0.
  __device__ __forceinline__ int64_t offset(int64_t row) const {
    return row / rows * stack.stride + row % rows * stack.elements.row_stride;
  }
};

struct SignProductParameters {
  StackedRows<const void*> x;
  StackedRows<void*> y;
  float* partials = nullptr;  // [parts, rows, outer]; nullptr: one part, written to y
  int64_t rows = 0, inner = 0, outer = 0, features = 0, size = 0;  // rows of the whole stack
  int64_t length = 0;  // of a part of `inner`, a multiple of the depth
  int64_t tiles = 1;   // of columns
  uint64_t seed = 0;
  float x_scale = 1.0f, scale = 1.0f;  // of what is added, and of the sums

  /// Where the rows of x from `first` on begin, for a block's threads after the next barrier.
  __device__ __forceinline__ void locate(int64_t first, int64_t* offsets) const {
    const int row = int(threadIdx.x);
    if (row < kSignRows) offsets[row] = first + row < rows ? x.offset(first + row) : 0;
  }
  __device__ __forceinline__ float load(int64_t offset, int64_t col) const {
    const auto& elements = x.stack.elements;
    return load_element(elements.data, elements.dtype, offset + col * elements.col_stride) * x_scale;
  }
  __device__ __forceinline__ void write(int64_t part, int64_t row, int64_t col, float sum) const {
    if (partials != nullptr)
      partials[(part * rows + row) * outer + col] = sum;
    else
      store(row, col, sum * scale);
  }
  __device__ __forceinline__ void store(int64_t row, int64_t col, float value) const {
    const auto& elements = y.stack.elements;
    store_element(elements.data, elements.dtype, y.offset(row) + col * elements.col_stride, value);
  }
};

/// Blocks: tiles of rows by those of columns, the columns' first; parts.
template <bool kAdjoint>
__global__ void __launch_bounds__(kSignThreads) rademacher_product_kernel(const SignProductParameters parameters) {
  const int thread = int(threadIdx.x), lane = thread % 32, group = thread / 32 % kSignGroups;
  const int first_row_of_warp = thread / 32 / kSignGroups * kRowsOfThread;
  const int64_t first_row = int64_t(blockIdx.x) / parameters.tiles * kSignRows;
  const int64_t first_col = int64_t(blockIdx.x) % parameters.tiles * kSignCols;
  const int64_t begin = int64_t(blockIdx.y) * parameters.length;
  const int64_t end = begin + parameters.length < parameters.inner ? begin + parameters.length : parameters.inner;
  int64_t* const offsets = dynamic_shared<int64_t>();
  float* const rows_of_x = reinterpret_cast<float*>(offsets + kSignRows);  // [depth, rows]
  uint32_t* const words = reinterpret_cast<uint32_t*>(rows_of_x + kSignDepth * kSignStride);  // [groups, 64]
  const bool along_rows = parameters.x.stack.elements.col_stride == 1;
  parameters.locate(first_row, offsets);
  __syncthreads();
  float sum[kRowsOfThread] = {};
#pragma unroll 1
  for (int64_t first = begin; first < end; first += kSignDepth) {
#pragma unroll 4
    for (int e = thread; e < kSignRows * kSignDepth; e += kSignThreads) {
      const int row = along_rows ? e / kSignDepth : e % kSignRows, k = along_rows ? e % kSignDepth : e / kSignRows;
      const bool exists = first_row + row < parameters.rows && first + k < end;
      rows_of_x[k * kSignStride + row] = exists ? parameters.load(offsets[row], first + k) : 0.0f;
    }
    if (thread < kSignGroups * kSignBlocks) {
      // Word (j / 32) features + i holds the signs of row i, columns j / 32 * 32 on.
      const int g = thread / kSignBlocks;
      const int64_t block_of_32 = (kAdjoint ? first : first_col) / 32 + g;
      const uint64_t from = uint64_t(block_of_32 * parameters.features + (kAdjoint ? first_col : first));
      const uint64_t counter = from / 4 + uint64_t(thread % kSignBlocks);
      const PhiloxBlock block = philox4x32_10(parameters.seed, counter);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int64_t at = int64_t(counter * 4 + uint64_t(q)) - int64_t(from);
        if (at >= 0 && at < kSignDepth) words[g * kSignDepth + at] = block.word[q];
      }
    }
    __syncthreads();
    float of_tile[kRowsOfThread] = {};  // sums of sums: the rounding grows with the depth and the number of tiles
#pragma unroll 1
    for (int half = 0; half < kSignDepth / 32; ++half) {
      const uint32_t own = kAdjoint ? words[half * kSignDepth + group * 32 + lane] : 0;
#pragma unroll 8
      for (int step = 0; step < 32; ++step) {
        const int k = half * 32 + step;
        const uint32_t bit = kAdjoint ? own >> step & 1 : words[group * kSignDepth + k] >> lane & 1;
        const float sign = bit != 0 ? -1.0f : 1.0f;
        const float* const x = rows_of_x + k * kSignStride + first_row_of_warp;
#pragma unroll
        for (int q = 0; q < kRowsOfThread; q += 4) {
          const float4 four = load_vector<float4>(x + q);
          of_tile[q] = fmaf(four.x, sign, of_tile[q]), of_tile[q + 1] = fmaf(four.y, sign, of_tile[q + 1]);
          of_tile[q + 2] = fmaf(four.z, sign, of_tile[q + 2]), of_tile[q + 3] = fmaf(four.w, sign, of_tile[q + 3]);
        }
      }
    }
#pragma unroll
    for (int q = 0; q < kRowsOfThread; ++q) sum[q] += of_tile[q];
    __syncthreads();
  }
  const int64_t col = first_col + group * 32 + lane;
  if (col >= parameters.outer) return;
#pragma unroll
  for (int q = 0; q < kRowsOfThread; ++q) {
    const int64_t row = first_row + first_row_of_warp + q;
    if (row < parameters.rows) parameters.write(int64_t(blockIdx.y), row, col, sum[q]);
  }
}

constexpr int kScatterRows = 4, kScatterWarps = kSignThreads / 32;  // of a warp; together a block's kSignRows
constexpr int kScatterDepth = 32, kScatterStride = kScatterDepth + 1;
constexpr int kScatterWindow = 512;  // columns whose sums a block keeps
static_assert(kScatterRows * kScatterWarps == kSignRows && kScatterRows * kSparseSigns == 32);

constexpr size_t scatter_shared_bytes(int64_t size) {
  const int64_t window = size < kScatterWindow ? size : kScatterWindow;
  const int64_t words = kSignRows * (window + kScatterStride) + kScatterDepth * kSparseSigns;
  return kRowOffsetsBytes + size_t(words) * sizeof(float);
}

/// Blocks: tiles of rows by windows of columns, the windows first; parts.
__global__ void __launch_bounds__(kSignThreads) sparse_scatter_kernel(const SignProductParameters parameters) {
  constexpr int kAbsent = -1;
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t first_row = int64_t(blockIdx.x) / parameters.tiles * kSignRows;
  const int64_t first_col = int64_t(blockIdx.x) % parameters.tiles * kScatterWindow;
  const int window = int(parameters.size < kScatterWindow ? parameters.size : kScatterWindow);
  const int64_t begin = int64_t(blockIdx.y) * parameters.length;
  const int64_t end = begin + parameters.length < parameters.inner ? begin + parameters.length : parameters.inner;
  int64_t* const offsets = dynamic_shared<int64_t>();
  float* const sums = reinterpret_cast<float*>(offsets + kSignRows);  // [rows, window]
  float* const tile = sums + kSignRows * window;         // [rows, depth]
  int* const entries = reinterpret_cast<int*>(tile + kSignRows * kScatterStride);  // 2 column + sign
  for (int e = thread; e < kSignRows * window; e += kSignThreads) sums[e] = 0.0f;
  parameters.locate(first_row, offsets);
  __syncthreads();
  const bool along_rows = parameters.x.stack.elements.col_stride == 1;
  const int row_of_lane = warp * kScatterRows + lane / int(kSparseSigns);
#pragma unroll 1
  for (int64_t first = begin; first < end; first += kScatterDepth) {
#pragma unroll 4
    for (int e = thread; e < kSignRows * kScatterDepth; e += kSignThreads) {
      const int row = along_rows ? e / kScatterDepth : e % kSignRows;
      const int k = along_rows ? e % kScatterDepth : e / kSignRows;
      const bool exists = first_row + row < parameters.rows && first + k < end;
      tile[row * kScatterStride + k] = exists ? parameters.load(offsets[row], first + k) : 0.0f;
    }
    if (thread < kScatterDepth) {
      int64_t columns[kSparseSigns];
      bool negative[kSparseSigns];
      const int64_t count = sparse_sign_row(parameters.seed, first + thread, parameters.size, columns, negative);
#pragma unroll
      for (int t = 0; t < int(kSparseSigns); ++t) {
        int entry = kAbsent;
        if (t < count && columns[t] >= first_col && columns[t] < first_col + window)
          entry = 2 * int(columns[t] - first_col) + int(negative[t]);
        entries[thread * kSparseSigns + t] = entry;
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < kScatterDepth; ++k) {
      const int entry = entries[k * kSparseSigns + lane % kSparseSigns];
      const float x = tile[row_of_lane * kScatterStride + k];
      if (entry != kAbsent) sums[row_of_lane * window + entry / 2] += entry % 2 != 0 ? -x : x;
      __syncwarp();  // the next feature's columns may be these, of another lane
    }
    __syncthreads();
  }
#pragma unroll 1
  for (int e = thread; e < kSignRows * window; e += kSignThreads) {
    const int64_t row = first_row + e / window, col = first_col + e % window;
    if (row < parameters.rows && col < parameters.outer) parameters.write(int64_t(blockIdx.y), row, col, sums[e]);
  }
}

/// Blocks: tiles of rows by tiles of 256 columns, the columns' first. A thread makes a column's entries once for a tile's rows.
__global__ void __launch_bounds__(kSignThreads) sparse_gather_kernel(const SignProductParameters parameters) {
  const int64_t col = int64_t(blockIdx.x) % parameters.tiles * kSignThreads + int(threadIdx.x);
  if (col >= parameters.outer) return;
  int64_t columns[kSparseSigns];
  bool negative[kSparseSigns];
  const int64_t count = sparse_sign_row(parameters.seed, col, parameters.size, columns, negative);
  const int64_t first_row = int64_t(blockIdx.x) / parameters.tiles * kSignRows;
#pragma unroll 1
  for (int64_t row = first_row; row < first_row + kSignRows && row < parameters.rows; ++row) {
    const int64_t offset = parameters.x.offset(row);
    float sum = 0.0f;
#pragma unroll
    for (int t = 0; t < int(kSparseSigns); ++t) {
      if (t >= count) break;
      const float x = parameters.load(offset, columns[t]);
      sum += negative[t] ? -x : x;
    }
    parameters.store(row, col, sum * parameters.scale);
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
