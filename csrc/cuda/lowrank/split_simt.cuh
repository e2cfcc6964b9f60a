// project and factor_grad for float32: both are out[m, n] = sum_k drop(A)[m, k] B[n, k] with the sum cut over blocks,
// s with A = x, m = row, n = rank, and grad with A = xT, m = column, n = rank. FMA only, no TF32.
//
// Floor: A read once; 2 m n k float32 operations.
// Idea: as split_mma.cuh; operands have any strides, because their copies into shared memory transpose on the way.
#pragma once

#include "device/simt_product.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// `Output::write(row, col, sum)`; kRankFirst: the output is [rank, m], else [m, rank].
template <class Output>
struct SplitSimtParameters {
  FloatOperand a, b;
  OperandDropout dropout;
  int sum_length = 0;
  int splits = 1, blocks_per_split = 0;
  float* partials = nullptr;  // [splits, output rows, output cols]; nullptr: a single part
  Output output;
};

template <class Product, class Output, bool kRankFirst>
__global__ void __launch_bounds__(Product::kThreads) split_simt_kernel(const SplitSimtParameters<Output> parameters) {
  const int extent_m = parameters.a.extent, rank = parameters.b.extent;
  const int rank_tiles = (rank + Product::kTileN - 1) / Product::kTileN;
  const int rank_tile = int(blockIdx.x) % rank_tiles, split = int(blockIdx.x) / rank_tiles % parameters.splits;
  const int tile_m = int(blockIdx.x) / rank_tiles / parameters.splits;
  const int first_m = tile_m * Product::kTileM, first_n = rank_tile * Product::kTileN;

  const int length = parameters.blocks_per_split * Product::kTileK, begin = split * length;
  const int end = parameters.sum_length - begin < length ? parameters.sum_length : begin + length;
  Product product(dynamic_shared<float>(), int(threadIdx.x));
  product.accumulate(parameters.a, parameters.b, first_m, first_n, begin, end, parameters.dropout);

  float* partials = parameters.partials;
  if (partials != nullptr) partials += int64_t(split) * extent_m * rank;
#pragma unroll
  for (int i = 0; i < Product::kPerThreadM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kPerThreadN; ++j) {
      const int m = first_m + product.row_of(i), n = first_n + product.col_of(j);
      if (m >= extent_m || n >= rank) continue;
      const int row = kRankFirst ? n : m, col = kRankFirst ? m : n;
      if (partials != nullptr)
        partials[int64_t(row) * (kRankFirst ? extent_m : rank) + col] = product.accumulators[i][j];
      else
        parameters.output.write(row, col, product.accumulators[i][j]);
    }
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
