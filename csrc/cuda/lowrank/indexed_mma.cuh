// The indexed products for bf16 and f16 on mma.sync and cp.async (sm_80 and later). Rows of one adapter are a tile,
// gathered on their way into shared memory and scattered on their way out:
//
//   project      s_t = scales[i] * x_t downs[i]T             a tile of rows x a tile of the rank x a part of `in`
//   linear       y_t = x_t weightT + base_t + s_t ups[i]T    a tile of rows x a tile of `out`
//   factor_grad  grads[i] = scales[i] * sum of s_tT x_t      an adapter x a tile of columns x a tile of the rank
//
// Floor: x (or base and y) once, the factors of those adapters that have rows once; 2 rows in rank operations are few.
// Idea: what is known only on the device (how many rows an adapter has, which rank) decides how far a block's loops
// run, never how many blocks there are. Sums of project are cut over blocks as in split_mma.cuh, so that a few rows
// keep every multiprocessor reading; sums of factor_grad are not, because partial sums of every adapter would take more
// memory than the gradients. With a weight, linear is the one product of linear_mma.cuh, the low-rank term first.
#pragma once

#include "cuda/lowrank/indexed_outputs.cuh"
#include "cuda/lowrank/linear_mma.cuh"
#include "device/gathered.cuh"
#include "device/pipelined_sum.cuh"
#include "device/smem.cuh"
#include "device/tile_product.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// The factors of all adapters: those of adapter 0, and how far it is to the next ones'.
struct FactorStack {
  Lines lines;
  int64_t stack_stride = 0;  // elements

  /// Of one adapter, `ranks` of its ranks: lines where the sum runs along them, else the lines' lengths.
  __device__ __forceinline__ Lines of(int adapter, int ranks, bool ranks_are_lines) const {
    Lines own = lines;
    own.data = static_cast<const uint16_t*>(lines.data) + adapter * stack_stride;
    (ranks_are_lines ? own.lines : own.length) = ranks;
    return own;
  }
};

struct IndexedProjectMmaParameters {
  RoutedRows routed;
  Lines x;
  FactorStack downs;  // lines are ranks, or columns where they lie across the sum
  int rows = 0, in = 0, rank = 0;
  int splits = 1, blocks_per_split = 0;  // parts of the sum, in tiles of k
  float* partials = nullptr;             // [splits, rows, rank]; nullptr: a single part, written through `output`
  IndexedProjectOutput output;
};

template <class Product>
__global__ void __launch_bounds__(Product::kThreads)
    indexed_project_mma_kernel(const __grid_constant__ IndexedProjectMmaParameters parameters) {
  constexpr int kTileK = Product::kTileK;
  const int rank_tiles = (parameters.rank + Product::kTileN - 1) / Product::kTileN;
  const int rank_tile = int(blockIdx.x) % rank_tiles, split = int(blockIdx.x) / rank_tiles % parameters.splits;
  const RowTile tile = parameters.routed.tiles[int(blockIdx.x) / rank_tiles / parameters.splits];
  if (tile.rows == 0) return;  // the whole block
  const int first_n = rank_tile * Product::kTileN;
  const int32_t* const order = parameters.routed.order + tile.first;

  const int all_blocks = first_n < tile.rank ? (parameters.in + kTileK - 1) / kTileK : 0;
  const int first_block = split * parameters.blocks_per_split, left = all_blocks - first_block;
  const int blocks = left < parameters.blocks_per_split ? left : parameters.blocks_per_split;
  Product product(ptx::shared_address(dynamic_shared<char>()), int(threadIdx.x));
  GatheredTileReader<typename Product::TileA, Product::kThreads, Product::kWide, true> x(
      parameters.x, order, tile.rows, first_block * kTileK, product.thread);
  TileReader<typename Product::TileB, Product::kThreads, Product::kWide, Product::kAlongB> down(
      parameters.downs.of(tile.rank > 0 ? tile.segment : 0, tile.rank, Product::kAlongB), first_n,
      first_block * kTileK, product.thread);
  pipelined_sum(
      product, blocks,
      [&](int, int stage) {
        x.template copy<kTileK>(product.stage_a(stage));
        down.template copy<kTileK>(product.stage_b(stage));
      },
      [](int) { return kTileK / 16; });

  float* partials = parameters.partials;
  if (partials != nullptr) partials += int64_t(split) * parameters.rows * parameters.rank;
#pragma unroll
  for (int i = 0; i < Product::kMmaM; ++i)
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int m = product.row_of(i, q);
      if (m >= tile.rows) continue;
      const int row = order[m];
#pragma unroll
      for (int j = 0; j < Product::kMmaN; ++j) {
        const int n = first_n + product.col_of(j, q);
        if (n >= parameters.rank) continue;
        const float sum = n < tile.rank ? product.accumulators[i][j][q] : 0.0f;  // not NaN times zero
        if (partials != nullptr)
          partials[int64_t(row) * parameters.rank + n] = sum;
        else
          parameters.output.write(row, n, sum);
      }
    }
}

struct IndexedLinearMmaParameters {
  RoutedRows routed;
  Lines x, weight;  // sum over `in`; unused when in is 0
  Lines s;
  FactorStack ups;  // lines are columns of y, or ranks where they lie across the sum
  int tiles_bound = 0, in = 0;
  LinearOutput output;
};

template <class Product>
__global__ void __launch_bounds__(Product::kThreads)
    indexed_linear_mma_kernel(const __grid_constant__ IndexedLinearMmaParameters parameters) {
  constexpr int kTileK = Product::kTileK, kThreads = Product::kThreads;
  constexpr bool kWide = Product::kWide, kAlong = Product::kAlongB;
  const int tiles_n = (parameters.output.out + Product::kTileN - 1) / Product::kTileN;
  int tile_m, tile_n;
  linear_tile(int(blockIdx.x), parameters.tiles_bound, tiles_n, tile_m, tile_n);
  const RowTile tile = parameters.routed.tiles[tile_m];
  if (tile.rows == 0) return;  // the whole block
  const int first_n = tile_n * Product::kTileN;
  const int32_t* const order = parameters.routed.order + tile.first;

  Product product(ptx::shared_address(dynamic_shared<char>()), int(threadIdx.x));
  const int tail_blocks = (tile.rank + kTileK - 1) / kTileK;
  Lines s_lines = parameters.s;
  s_lines.length = tile.rank;
  using RowReader = GatheredTileReader<typename Product::TileA, kThreads, kWide, true>;
  using ColumnReader = TileReader<typename Product::TileB, kThreads, kWide, kAlong>;
  RowReader s(s_lines, order, tile.rows, 0, product.thread), x(parameters.x, order, tile.rows, 0, product.thread);
  ColumnReader up(parameters.ups.of(tile.rank > 0 ? tile.segment : 0, tile.rank, !kAlong), first_n, 0, product.thread);
  ColumnReader weight(parameters.weight, first_n, 0, product.thread);
  pipelined_sum(
      product, tail_blocks + (parameters.in + kTileK - 1) / kTileK,
      [&](int block, int stage) {
        if (block < tail_blocks) {
          s.template copy<kTileK>(product.stage_a(stage));
          up.template copy<kTileK>(product.stage_b(stage));
        } else {
          x.template copy<kTileK>(product.stage_a(stage));
          weight.template copy<kTileK>(product.stage_b(stage));
        }
      },
      [&](int block) {
        const int steps = block < tail_blocks ? (tile.rank - block * kTileK + 15) / 16 : kTileK / 16;
        return steps < kTileK / 16 ? steps : kTileK / 16;
      });
  if (tile.segment > parameters.routed.adapters) {  // an index out of range
#pragma unroll
    for (int i = 0; i < Product::kMmaM; ++i)
#pragma unroll
      for (int j = 0; j < Product::kMmaN; ++j)
#pragma unroll
        for (int q = 0; q < 4; ++q) product.accumulators[i][j][q] = NAN;
  }
  write_output(product, RoutedLinearOutput(parameters.output, order, tile.rows), 0, first_n);
}

struct IndexedGradMmaParameters {
  RoutedRows routed;
  Lines x, s;  // rows in the caller's order
  int cols = 0, rank = 0;
  IndexedGradOutput output;
};

template <class Product>
__global__ void __launch_bounds__(Product::kThreads)
    indexed_grad_mma_kernel(const __grid_constant__ IndexedGradMmaParameters parameters) {
  constexpr int kTileK = Product::kTileK;
  const int rank_tiles = (parameters.rank + Product::kTileN - 1) / Product::kTileN;
  const int col_tiles = (parameters.cols + Product::kTileM - 1) / Product::kTileM;
  const int rank_tile = int(blockIdx.x) % rank_tiles, col_tile = int(blockIdx.x) / rank_tiles % col_tiles;
  const int adapter = int(blockIdx.x) / rank_tiles / col_tiles;
  const int first_m = col_tile * Product::kTileM, first_n = rank_tile * Product::kTileN;
  const int begin = parameters.routed.offsets[adapter], rows = parameters.routed.offsets[adapter + 1] - begin;
  // Without rows the gradient is zero, whatever the scale is.
  const int used_ranks = rows > 0 ? parameters.routed.ranks[adapter] : 0;
  const int32_t* const order = parameters.routed.order + begin;

  Product product(ptx::shared_address(dynamic_shared<char>()), int(threadIdx.x));
  GatheredTileReader<typename Product::TileA, Product::kThreads, Product::kWide, false> x(
      parameters.x, order, rows, first_m, product.thread);
  GatheredTileReader<typename Product::TileB, Product::kThreads, Product::kWide, false> s(
      parameters.s, order, rows, first_n, product.thread);
  pipelined_sum(
      product, first_n < used_ranks ? (rows + kTileK - 1) / kTileK : 0,
      [&](int, int stage) {
        x.template copy<kTileK>(product.stage_a(stage));
        s.template copy<kTileK>(product.stage_b(stage));
      },
      [](int) { return kTileK / 16; });
#pragma unroll
  for (int i = 0; i < Product::kMmaM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kMmaN; ++j)
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int m = first_m + product.row_of(i, q), n = first_n + product.col_of(j, q);
        if (m < parameters.cols && n < parameters.rank)
          parameters.output.write(adapter, used_ranks, n, m, product.accumulators[i][j][q]);
      }
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
