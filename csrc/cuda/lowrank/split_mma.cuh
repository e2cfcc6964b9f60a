// project and factor_grad for bf16 and f16 on mma.sync and cp.async (sm_80 and later). Both are
//
//   out[m, n] = sum_k drop(A)[m, k] B[n, k]      with n over the rank:
//   s    = scale * gate . (drop(x) downT)        A = x,  m a row,    k a column, x lies along the sum, down either way
//   grad = scale * sT drop(x)                    A = xT, m a column, k a row,    both operands lie across the sum
//
// Floor: x read once (2 rows cols bytes); 2 rows cols rank operations are few for the usual ranks.
// Idea: a block owns a tile of m, a tile of the rank and a part of the sum, so that even a short m keeps every
// multiprocessor reading x. Parts depend on shape and device alone and meet in split_sum.cuh in fixed order. Dropout is
// applied to x in shared memory by the thread that copied it: one Philox call per four elements, whatever the rank.
// Ranks above a tile read x again, from L2.
#pragma once

#include "device/smem.cuh"
#include "device/tile_product.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// `Output::write(row, col, sum)`; the output is [m, rank] for x along the sum and [rank, m] for x across it.
template <class Output>
struct SplitMmaParameters {
  Lines x, factor;  // lines of x are its rows
  int extent_m = 0, rank = 0, sum_length = 0;
  int splits = 1, blocks_per_split = 0;  // parts of the sum, in tiles of k
  DropoutParameters dropout;
  float* partials = nullptr;  // [splits, output rows, output cols]; nullptr: a single part, written through `output`
  Output output;
};

template <class Product, class Output>
__global__ void __launch_bounds__(Product::kThreads) split_mma_kernel(const SplitMmaParameters<Output> parameters) {
  constexpr int kTileK = Product::kTileK, kStages = Product::kStages;
  constexpr bool kRankFirst = !Product::kAlongA;
  const int rank_tiles = (parameters.rank + Product::kTileN - 1) / Product::kTileN;
  const int rank_tile = int(blockIdx.x) % rank_tiles, split = int(blockIdx.x) / rank_tiles % parameters.splits;
  const int tile_m = int(blockIdx.x) / rank_tiles / parameters.splits;
  const int first_m = tile_m * Product::kTileM, first_n = rank_tile * Product::kTileN;

  const int all_blocks = (parameters.sum_length + kTileK - 1) / kTileK;
  const int first_block = split * parameters.blocks_per_split, left = all_blocks - first_block;
  const int blocks = left < parameters.blocks_per_split ? left : parameters.blocks_per_split;
  const bool drops = parameters.dropout.seed != nullptr;
  const uint64_t seed = drops ? uint64_t(*parameters.dropout.seed) : 0;

  Product product(ptx::shared_address(dynamic_shared<char>()), int(threadIdx.x));
  typename Product::Reader reader(parameters.x, parameters.factor, first_m, first_n, first_block * kTileK,
                                  product.thread);
  int stage = 0, ahead = kStages - 1;  // the stage multiplied and the one filled
#pragma unroll 1
  for (int block = 0; block < kStages - 1; ++block) {
    if (block < blocks) reader.copy(product, block);
    ptx::cp_async_commit();
  }
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    ptx::cp_async_wait<kStages - 2>();
    if (drops) {
      const int first_k = (first_block + block) * kTileK;
      drop_in_tile<typename Product::TileA, Product::kThreads>(
          product.stage_a(stage), kRankFirst ? first_k : first_m, kRankFirst ? first_m : first_k, parameters.x.length,
          seed, parameters.dropout.threshold, product.thread);
    }
    __syncthreads();  // the tile has arrived for all, and all are done with the stage filled next
    if (block + kStages - 1 < blocks) reader.copy(product, ahead);
    ptx::cp_async_commit();
    product.multiply(stage);
    stage = Product::next(stage), ahead = Product::next(ahead);
  }
  ptx::cp_async_wait_all();

  float* partials = parameters.partials;
  if (partials != nullptr) partials += int64_t(split) * parameters.extent_m * parameters.rank;
#pragma unroll
  for (int i = 0; i < Product::kMmaM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kMmaN; ++j)
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int m = first_m + product.row_of(i, q), n = first_n + product.col_of(j, q);
        if (m >= parameters.extent_m || n >= parameters.rank) continue;
        const int row = kRankFirst ? n : m, col = kRankFirst ? m : n;
        if (partials != nullptr)
          partials[int64_t(row) * (kRankFirst ? parameters.extent_m : parameters.rank) + col] =
              product.accumulators[i][j][q];
        else
          parameters.output.write(row, col, product.accumulators[i][j][q]);
      }
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
