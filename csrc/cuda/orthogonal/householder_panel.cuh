// S = (triu(G, 1) + diag(G) / 2)^-1 of panels of nearly unit rows U, G = U UT: what applies a panel's reflections at once
// (lrk/householder.h), in double from float32 rows.
//
// Why double: of vectors that lie close together S is as ill conditioned as triangles of ones are; a float32 Gram matrix
// alone costs an order of magnitude of orthogonality. The diagonal is half the lengths there are, not 1/2: rows are unit
// ones only to rounding, and S is of the reflections along the rows there are.
//
// Cost: panel^2 features / 2 double multiply-adds, 42 M with whole tiles for 128 rows of 4096, 5 k cycles of 132
// multiprocessors at the 64 a cycle of sm_90; each operand is read from shared memory for four of them, which takes twice
// as long. Idea: a block of threads adds a 32 x 32 tile of the upper triangle over a part of the columns, so that one
// panel fills a device; rows become double on their way into shared memory, once for the 32 products of an element. The
// second kernel adds the parts in order and inverts a panel a block (small_inverse.cuh): of 128 rows 33 k cycles of
// multiply-adds, and an estimated as many of divisions and barriers.
#pragma once

#include "cuda/orthogonal/small_inverse.cuh"
#include "device/element_view.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kGramTile = 32, kGramSide = 8, kGramThreads = kGramSide * kGramSide;
constexpr int kGramDepth = 32, kGramStride = kGramTile + 1;  // columns at a time; doubles between them
constexpr size_t kGramSharedBytes = 2 * kGramDepth * kGramStride * sizeof(double);

/// Tiles (i, j) of a triangle with j >= i, column by column of tiles.
__host__ __device__ constexpr int64_t triangle_tiles(int64_t tiles) { return tiles * (tiles + 1) / 2; }

struct PanelGramParameters {
  const float* units = nullptr;
  int64_t stride = 0, features = 0, columns = 0;  // of a part
  int rows = 0, tiles = 0, parts = 1;             // of a panel
  double* gram = nullptr;                         // [panels, parts, rows, rows], of which the upper triangles are written
};

/// Blocks: tiles of the triangle, parts, panels.
__global__ void __launch_bounds__(kGramThreads) panel_gram_kernel(const PanelGramParameters parameters) {
  constexpr int kPerThread = kGramTile / kGramSide;
  const int rows = parameters.rows, thread = int(threadIdx.x), y = thread / kGramSide, x = thread % kGramSide;
  int tile_j = 0, tile_i = int(blockIdx.x % triangle_tiles(parameters.tiles));
  while (tile_i > tile_j) tile_i -= ++tile_j;
  const int64_t rest = int64_t(blockIdx.x) / triangle_tiles(parameters.tiles);
  const int64_t part = rest % parameters.parts, panel = rest / parameters.parts;
  const int64_t begin = part * parameters.columns;
  const int64_t end = begin + parameters.columns < parameters.features ? begin + parameters.columns : parameters.features;
  double* const a = dynamic_shared<double>();
  double* const b = a + kGramDepth * kGramStride;
  double sum[kPerThread][kPerThread] = {};
#pragma unroll 1
  for (int64_t first = begin; first < end; first += kGramDepth) {
#pragma unroll 4
    for (int e = thread; e < kGramTile * kGramDepth; e += kGramThreads) {
      const int row = e / kGramDepth, k = e % kGramDepth, i = tile_i * kGramTile + row, j = tile_j * kGramTile + row;
      const float* const column = parameters.units + panel * rows * parameters.stride + first + k;
      const bool exists = first + k < end;
      a[k * kGramStride + row] = exists && i < rows ? double(column[i * parameters.stride]) : 0.0;
      b[k * kGramStride + row] = exists && j < rows ? double(column[j * parameters.stride]) : 0.0;
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < kGramDepth; ++k) {
      double left[kPerThread], right[kPerThread];
#pragma unroll
      for (int q = 0; q < kPerThread; ++q) {
        left[q] = a[k * kGramStride + y + q * kGramSide], right[q] = b[k * kGramStride + x + q * kGramSide];
      }
#pragma unroll
      for (int p = 0; p < kPerThread; ++p)
#pragma unroll
        for (int q = 0; q < kPerThread; ++q) sum[p][q] += left[p] * right[q];
    }
    __syncthreads();
  }
  double* const gram = parameters.gram + (panel * parameters.parts + part) * rows * rows;
#pragma unroll
  for (int p = 0; p < kPerThread; ++p) {
#pragma unroll
    for (int q = 0; q < kPerThread; ++q) {
      const int i = tile_i * kGramTile + y + p * kGramSide, j = tile_j * kGramTile + x + q * kGramSide;
      if (i <= j && j < rows) gram[i * rows + j] = sum[p][q];
    }
  }
}

struct PanelInverseParameters {
  const double* gram = nullptr;
  int rows = 0, parts = 1;
  int64_t panels = 0;
  InverseMemory memory;
  MutableElementView inverses;  // [panels rows, rows]
};

__global__ void __launch_bounds__(kInverseThreads) panel_inverse_kernel(const PanelInverseParameters parameters) {
  constexpr int kAtOnce = 4;  // elements of a thread, whose loads are in flight together
  const int rows = parameters.rows, elements = rows * rows, thread = int(threadIdx.x);
  double *const matrix = parameters.memory.matrix(rows), *const scratch = parameters.memory.scratch(rows);
#pragma unroll 1
  for (int64_t panel = blockIdx.x; panel < parameters.panels; panel += gridDim.x) {
    const double* const gram = parameters.gram + panel * parameters.parts * elements;
#pragma unroll 1
    for (int first = thread; first < elements; first += kAtOnce * kInverseThreads) {
      double sum[kAtOnce] = {};
      const auto is_upper = [&](int e) { return e < elements && e / rows <= e % rows; };
#pragma unroll 2
      for (int part = 0; part < parameters.parts; ++part)
#pragma unroll
        for (int q = 0; q < kAtOnce; ++q) {
          const int e = first + q * kInverseThreads;
          if (is_upper(e)) sum[q] += gram[int64_t(part) * elements + e];
        }
#pragma unroll
      for (int q = 0; q < kAtOnce; ++q) {
        const int e = first + q * kInverseThreads;
        if (e >= elements) continue;
        const bool diagonal = e / rows == e % rows;
        matrix[e] = !diagonal ? sum[q] : sum[q] == 0.0 ? 0.5 : sum[q] / 2;  // of a zero row any number would do
      }
    }
    __syncthreads();
    small_inverse(matrix, rows, scratch);
#pragma unroll 1
    for (int e = thread; e < elements; e += kInverseThreads)
      parameters.inverses.store(panel * rows + e / rows, e % rows, float(matrix[e]));
    __syncthreads();
  }
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
