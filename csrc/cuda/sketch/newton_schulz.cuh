// X <- (c0 I + c1 M + c2 M^2) X with M = X XT from X = A / |A|_F, all steps in one launch: a block of threads a matrix, for
// stacks of matrices whose short side and which as a whole fit into shared memory. float32.
//
// Cost of a step: rows^2 cols + rows^3 / 2 + rows^2 cols / 2 multiply-adds (M and its square are symmetric: half of each
// is computed and mirrored), 4.2 M for 128 x 128, 33 k cycles of one multiprocessor at 128 a cycle; a launch of every
// product would cost a stack of 126 of them as much as the products do. Idea: X and M stay in shared memory, sums of
// 4 x 4 in registers, each product written over an operand once all threads have read it; 32 x 32 tiles of the triangle
// are dealt to four groups of 64 threads. Operands come 16 bytes at a time: eight numbers for sixteen multiply-adds.
#pragma once

#include "cuda/sketch/block_fold.cuh"
#include "cuda/sketch/matrix_stack.cuh"
#include "device/vector.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kNewtonThreads = kFoldThreads, kNewtonTile = 32, kNewtonGroups = 4;
constexpr int kMostNewtonRows = 128;    // of the short side
constexpr int kMostNewtonSteps = 32;    // whose coefficients are kernel parameters

struct NewtonSchulzParameters {
  ConstStack a;      // [rows, cols], rows <= cols
  MutableStack out;
  int rows = 0, cols = 0, steps = 0;
  float coefficients[3 * kMostNewtonSteps] = {};
};

/// Rows and columns in shared memory: whole tiles, so that no product asks where it ends.
constexpr int newton_padded(int64_t size) { return int((size + kNewtonTile - 1) / kNewtonTile) * kNewtonTile; }
/// Floats between rows: four rows of a column lie in different banks, and a row begins on 16 bytes.
constexpr int newton_stride(int64_t size) { return newton_padded(size) + 4; }

/// X as its transpose [cols, rows] and M [rows, rows], and a word a thread to reduce.
constexpr size_t newton_shared_bytes(int64_t rows, int64_t cols) {
  return size_t((newton_padded(cols) + newton_padded(rows)) * newton_stride(rows) + kNewtonThreads) * sizeof(float);
}

/// sum(p, q) += over k < depth of left[k][4 i + p] right[k][4 j + q], operands with their sums' index along rows.
__device__ __forceinline__ void add_outer_products(const float* left, const float* right, int stride, int depth,
                                                   float (&sum)[4][4]) {
#pragma unroll 4
  for (int k = 0; k < depth; ++k) {
    const float4 a = load_vector<float4>(left + k * stride), b = load_vector<float4>(right + k * stride);
    const float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int p = 0; p < 4; ++p)
#pragma unroll
      for (int q = 0; q < 4; ++q) sum[p][q] = fmaf(as[p], bs[q], sum[p][q]);
  }
}

/// m = xT x of `x` [depth, rows], or with kSquare m <- c0 I + c1 m + c2 m m, where x is m. Called by all threads between
/// two barriers.
template <int kRounds, bool kSquare>
__device__ __forceinline__ void symmetric_product(const float* x, float* m, int depth, int padded, int stride, float c0,
                                                  float c1, float c2) {
  const int group = int(threadIdx.x) / 64, within = int(threadIdx.x) % 64;
  const int row = within / 8 * 4, col = within % 8 * 4;
  const int side = padded / kNewtonTile, tiles = side * (side + 1) / 2;
  float sum[kRounds][4][4] = {};
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int tile = round * kNewtonGroups + group;
    if (tile >= tiles || (kSquare && c2 == 0.0f)) continue;
    int i, j;
    tile_of_triangle(tile, i, j);
    add_outer_products(x + i * kNewtonTile + row, x + j * kNewtonTile + col, stride, depth, sum[round]);
  }
  if (kSquare) __syncthreads();  // m is an operand
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int tile = round * kNewtonGroups + group;
    if (tile >= tiles) continue;
    int i, j;
    tile_of_triangle(tile, i, j);
#pragma unroll
    for (int p = 0; p < 4; ++p)
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int r = i * kNewtonTile + row + p, c = j * kNewtonTile + col + q;
        if (r > c) continue;  // its mirror image is computed too, and there is one writer
        float value = sum[round][p][q];
        if (kSquare) value = c1 * m[r * stride + c] + (c2 != 0.0f ? c2 * value : 0.0f) + (r == c ? c0 : 0.0f);
        m[r * stride + c] = value, m[c * stride + r] = value;
      }
  }
}

/// kRounds: tiles of the triangle over the groups, 1 to 32 or 64 rows, 2 to 96, 3 to 128.
template <int kRounds>
__global__ void __launch_bounds__(kNewtonThreads) newton_schulz_kernel(const NewtonSchulzParameters parameters) {
  const int rows = parameters.rows, cols = parameters.cols, thread = int(threadIdx.x);
  const int padded_rows = newton_padded(rows), padded_cols = newton_padded(cols), stride = newton_stride(rows);
  const int64_t n = blockIdx.x;
  float* const x = dynamic_shared<float>();       // XT: [cols, rows]
  float* const m = x + padded_cols * stride;      // [rows, rows]
  float* const reduced = m + padded_rows * stride;
  const bool along_rows = parameters.a.elements.col_stride == 1;
  float largest = 0.0f;
#pragma unroll 1
  for (int e = thread; e < padded_rows * padded_cols; e += kNewtonThreads) {
    const int i = along_rows ? e / padded_cols : e % padded_rows, j = along_rows ? e % padded_cols : e / padded_rows;
    const float value = i < rows && j < cols ? parameters.a.load(n, i, j) : 0.0f;
    x[j * stride + i] = value;
    largest = larger_or_nan(largest, fabsf(value));
  }
  largest = fold_block(reduced, largest, larger_or_nan);
  // By the largest entry first, so that squares neither overflow nor vanish; 0 stays.
  const float divisor = largest == 0.0f ? 1.0f : largest;
  float squares = 0.0f;
#pragma unroll 1
  for (int e = thread; e < padded_cols * padded_rows; e += kNewtonThreads) {
    float& entry = x[e / padded_rows * stride + e % padded_rows];
    entry /= divisor;
    squares += entry * entry;
  }
  squares = fold_block(reduced, squares, [](float a, float b) { return a + b; });
  const float norm = squares == 0.0f ? 1.0f : sqrtf(squares);
#pragma unroll 1
  for (int e = thread; e < padded_cols * padded_rows; e += kNewtonThreads)
    x[e / padded_rows * stride + e % padded_rows] /= norm;
  __syncthreads();

#pragma unroll 1
  for (int step = 0; step < parameters.steps; ++step) {
    const float c0 = parameters.coefficients[3 * step], c1 = parameters.coefficients[3 * step + 1];
    const float c2 = parameters.coefficients[3 * step + 2];
    symmetric_product<kRounds, false>(x, m, padded_cols, padded_rows, stride, c0, c1, c2);
    __syncthreads();
    symmetric_product<kRounds, true>(m, m, padded_rows, padded_rows, stride, c0, c1, c2);
    __syncthreads();
    // X's columns, 32 at a time to every 2 padded_rows threads.
    const int threads_of_tile = 2 * padded_rows, tiles_at_once = kNewtonThreads / threads_of_tile;
#pragma unroll 1
    for (int first = 0; first < padded_cols; first += tiles_at_once * kNewtonTile) {
      const int row = thread % threads_of_tile / 8 * 4;
      const int col = first + thread / threads_of_tile * kNewtonTile + thread % 8 * 4;
      const bool works = thread < tiles_at_once * threads_of_tile && col < padded_cols;
      float sum[4][4] = {};  // [column, row]
      if (works) {
#pragma unroll 2
        for (int k = 0; k < padded_rows; k += 4) {
          float left[4][4], right[4][4];  // of M's rows k on; of X's columns
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const float4 a = load_vector<float4>(m + (k + q) * stride + row);
            const float4 b = load_vector<float4>(x + (col + q) * stride + k);
            left[q][0] = a.x, left[q][1] = a.y, left[q][2] = a.z, left[q][3] = a.w;
            right[q][0] = b.x, right[q][1] = b.y, right[q][2] = b.z, right[q][3] = b.w;
          }
#pragma unroll
          for (int p = 0; p < 4; ++p)
#pragma unroll
            for (int q = 0; q < 4; ++q)
#pragma unroll
              for (int t = 0; t < 4; ++t) sum[p][q] = fmaf(right[p][t], left[t][q], sum[p][q]);
        }
      }
      __syncthreads();
      if (works) {
#pragma unroll
        for (int p = 0; p < 4; ++p)
          store_vector(x + (col + p) * stride + row, float4{sum[p][0], sum[p][1], sum[p][2], sum[p][3]});
      }
    }
    __syncthreads();
  }
  const bool out_along_rows = parameters.out.elements.col_stride == 1;
#pragma unroll 1
  for (int e = thread; e < rows * cols; e += kNewtonThreads) {
    const int i = out_along_rows ? e / cols : e % rows, j = out_along_rows ? e % cols : e / rows;
    parameters.out.store(n, i, j, x[j * stride + i]);
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
