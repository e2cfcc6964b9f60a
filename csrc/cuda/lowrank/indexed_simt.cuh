// The indexed products for float32: FMA only, no TF32. The blocks and tiles of indexed_mma.cuh; operands may have any
// strides, because their copies into shared memory transpose on the way.
#pragma once

#include "cuda/lowrank/indexed_outputs.cuh"
#include "device/gathered.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// A float factor of adapter 0, i running over the side that is no sum, and how far it is to the next adapter's.
struct FloatStack {
  FloatOperand floats;
  int64_t stack_stride = 0;

  __device__ __forceinline__ FloatOperand of(int adapter) const {
    FloatOperand own = floats;
    own.data += adapter * stack_stride;
    return own;
  }
};

struct IndexedProjectSimtParameters {
  RoutedRows routed;
  FloatOperand x;
  FloatStack downs;
  int rows = 0, in = 0, rank = 0;
  int splits = 1, blocks_per_split = 0;
  float* partials = nullptr;  // [splits, rows, rank]; nullptr: a single part, written through `output`
  IndexedProjectOutput output;
};

template <class Product>
__global__ void __launch_bounds__(Product::kThreads)
    indexed_project_simt_kernel(const __grid_constant__ IndexedProjectSimtParameters parameters) {
  const int rank_tiles = (parameters.rank + Product::kTileN - 1) / Product::kTileN;
  const int rank_tile = int(blockIdx.x) % rank_tiles, split = int(blockIdx.x) / rank_tiles % parameters.splits;
  const RowTile tile = parameters.routed.tiles[int(blockIdx.x) / rank_tiles / parameters.splits];
  if (tile.rows == 0) return;  // the whole block
  const int first_n = rank_tile * Product::kTileN;
  const int32_t* const order = parameters.routed.order + tile.first;

  Product product(dynamic_shared<float>(), int(threadIdx.x));
  const int length = parameters.blocks_per_split * Product::kTileK, begin = split * length;
  const int end = parameters.in - begin < length ? parameters.in : begin + length;
  if (first_n < tile.rank) {
    GatheredFloatOperand<false> x{parameters.x, order};
    x.floats.extent = tile.rows;
    FloatOperand down = parameters.downs.of(tile.segment);
    down.extent = tile.rank;
    product.accumulate(x, down, 0, first_n, begin, end, OperandDropout{});
  }
  float* partials = parameters.partials;
  if (partials != nullptr) partials += int64_t(split) * parameters.rows * parameters.rank;
#pragma unroll
  for (int i = 0; i < Product::kPerThreadM; ++i) {
    const int m = product.row_of(i);
    if (m >= tile.rows) continue;
    const int row = order[m];
#pragma unroll
    for (int j = 0; j < Product::kPerThreadN; ++j) {
      const int n = first_n + product.col_of(j);
      if (n >= parameters.rank) continue;
      const float sum = n < tile.rank ? product.accumulators[i][j] : 0.0f;  // not NaN times zero
      if (partials != nullptr)
        partials[int64_t(row) * parameters.rank + n] = sum;
      else
        parameters.output.write(row, n, sum);
    }
  }
}

struct IndexedLinearSimtParameters {
  RoutedRows routed;
  FloatOperand x, weight, s;
  FloatStack ups;
  int in = 0;
  LinearOutput output;
};

template <class Product>
__global__ void __launch_bounds__(Product::kThreads)
    indexed_linear_simt_kernel(const __grid_constant__ IndexedLinearSimtParameters parameters) {
  const LinearOutput& output = parameters.output;
  const int tiles_n = (output.out + Product::kTileN - 1) / Product::kTileN;
  const RowTile tile = parameters.routed.tiles[int(blockIdx.x) / tiles_n];
  if (tile.rows == 0) return;  // the whole block
  const int first_n = int(blockIdx.x) % tiles_n * Product::kTileN;
  const int32_t* const order = parameters.routed.order + tile.first;
  Product product(dynamic_shared<float>(), int(threadIdx.x));

  if (tile.rank > 0) {
    GatheredFloatOperand<false> s{parameters.s, order};
    s.floats.extent = tile.rows;
    product.accumulate(s, parameters.ups.of(tile.segment), 0, first_n, 0, tile.rank, OperandDropout{});
  }
  if (parameters.in > 0) {
    GatheredFloatOperand<false> x{parameters.x, order};
    x.floats.extent = tile.rows;
    product.accumulate(x, parameters.weight, 0, first_n, 0, parameters.in, OperandDropout{});
  }
  const bool out_of_range = tile.segment > parameters.routed.adapters;
  const RoutedLinearOutput routed(output, order, tile.rows);
#pragma unroll
  for (int i = 0; i < Product::kPerThreadM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kPerThreadN; ++j)
      routed.write(product.row_of(i), first_n + product.col_of(j), out_of_range ? NAN : product.accumulators[i][j]);
}

struct IndexedGradSimtParameters {
  RoutedRows routed;
  FloatOperand x, s;  // i a column, the sum over rows
  int cols = 0, rank = 0;
  IndexedGradOutput output;
};

template <class Product>
__global__ void __launch_bounds__(Product::kThreads)
    indexed_grad_simt_kernel(const __grid_constant__ IndexedGradSimtParameters parameters) {
  const int rank_tiles = (parameters.rank + Product::kTileN - 1) / Product::kTileN;
  const int col_tiles = (parameters.cols + Product::kTileM - 1) / Product::kTileM;
  const int rank_tile = int(blockIdx.x) % rank_tiles, col_tile = int(blockIdx.x) / rank_tiles % col_tiles;
  const int adapter = int(blockIdx.x) / rank_tiles / col_tiles;
  const int first_m = col_tile * Product::kTileM, first_n = rank_tile * Product::kTileN;
  const int begin = parameters.routed.offsets[adapter], rows = parameters.routed.offsets[adapter + 1] - begin;
  // Without rows the gradient is zero, whatever the scale is.
  const int used_ranks = rows > 0 ? parameters.routed.ranks[adapter] : 0;

  Product product(dynamic_shared<float>(), int(threadIdx.x));
  if (first_n < used_ranks) {
    const GatheredFloatOperand<true> x{parameters.x, parameters.routed.order + begin};
    const GatheredFloatOperand<true> s{parameters.s, parameters.routed.order + begin};
    product.accumulate(x, s, first_m, first_n, 0, rows, OperandDropout{});
  }
#pragma unroll
  for (int i = 0; i < Product::kPerThreadM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kPerThreadN; ++j) {
      const int m = first_m + product.row_of(i), n = first_n + product.col_of(j);
      if (m < parameters.cols && n < parameters.rank)
        parameters.output.write(adapter, used_ranks, n, m, product.accumulators[i][j]);
    }
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
