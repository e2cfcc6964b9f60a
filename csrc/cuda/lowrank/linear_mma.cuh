// y = x weightT + base + scale * mask . (s upT) + bias for bf16 and f16, on mma.sync and cp.async (sm_80 and later).
//
// Floor: 2 rows out (in + rank) operations; x, weight, s and up read once, y (and base) touched once.
// Idea: the rank is a few more blocks of the sum. They go first, through the same pipeline and into the same float
// accumulators; there scale and the dropout mask are applied in registers, and the main loop adds on top. y is written
// once, no product is stored in between, and no rounding comes between the two terms. Without x and weight the kernel
// is the expand y = base + scale * s upT + bias, bound by the memory traffic of y and base.
#pragma once

#include "cuda/lowrank/linear_output.cuh"
#include "device/smem.cuh"
#include "device/tile_product.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

struct LinearMmaParameters {
  Lines x, weight;  // sum over `in`; unused when in is 0
  Lines s, up;      // sum over `rank`
  int in = 0, rank = 0;
  float scale = 1.0f;
  DropoutParameters dropout;
  LinearOutput output;
};

/// The tile a block computes. Blocks that run together share rows of weight: tiles go down eight rows of tiles, then
/// one to the right, so that what they read stays in L2.
__device__ __forceinline__ void linear_tile(int block, int tiles_m, int tiles_n, int& tile_m, int& tile_n) {
  constexpr int kGroup = 8;
  const int group = block / (kGroup * tiles_n), first = group * kGroup;
  const int height = tiles_m - first < kGroup ? tiles_m - first : kGroup, inside = block % (kGroup * tiles_n);
  tile_m = first + inside % height, tile_n = inside / height;
}

/// accumulators *= scale * mask / (1 - probability), the mask from Philox over y's row-major index.
template <class Product>
__device__ __forceinline__ void scale_and_drop(Product& product, const LinearMmaParameters& parameters, int first_m,
                                               int first_n) {
  const DropoutParameters& dropout = parameters.dropout;
  const float scale = parameters.scale * dropout.scale;
  const uint64_t seed = dropout.seed != nullptr ? uint64_t(*dropout.seed) : 0;
  const int out = parameters.output.out, lane = product.lane;
  static_assert(Product::kMmaN <= 8, "a row of fragments has at most 32 elements a lane");
#pragma unroll
  for (int i = 0; i < Product::kMmaM; ++i) {
    uint32_t keep = 0xffffffffu;  // bit 4 j + q for element q of fragment j
    if (dropout.seed != nullptr) {
      keep = 0;
#pragma unroll 1  // Philox is long: its code appears once, only the registers below are addressed statically
      for (int j = 0; j < Product::kMmaN; ++j) {
        const int col = first_n + product.col_of(j, 0), upper = first_m + product.row_of(i, 0);
        if (out % 4 == 0) {
          // Lanes 2t and 2t + 1 hold four neighbours of one Philox block in two rows: each computes one row for both.
          const int row = upper + (lane % 2) * 8;
          const uint32_t mine = dropout_keep_bits<4>(seed, uint64_t(row) * uint64_t(out) + uint64_t(col & ~3),
                                                     dropout.threshold);
          const uint32_t other = __shfl_xor_sync(0xffffffffu, mine, 1);
          const uint32_t even = (lane % 2 ? other : mine), odd = (lane % 2 ? mine : other);
          const int shift = 2 * (lane % 2);
          keep |= ((even >> shift & 3) | (odd >> shift & 3) << 2) << (4 * j);
        } else {
#pragma unroll 1
          for (int half = 0; half < 2; ++half)
            keep |= dropout_keep_bits<2>(seed, uint64_t(upper + 8 * half) * uint64_t(out) + uint64_t(col),
                                         dropout.threshold) << (4 * j + 2 * half);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < Product::kMmaN; ++j)
#pragma unroll
      for (int q = 0; q < 4; ++q)
        product.accumulators[i][j][q] = keep >> (4 * j + q) & 1 ? product.accumulators[i][j][q] * scale : 0.0f;
  }
}

/// Accumulators to y by way of shared memory, 16 rows of a warp at a time, so that global accesses are whole sectors.
/// `Output` is a LinearOutput, or maps rows to one's.
template <class Product, class Output>
__device__ __forceinline__ void write_output(const Product& product, const Output& output, int first_m, int first_n) {
  using T = typename Product::T;
  constexpr int kWidth = Product::kWarpN, kStride = kWidth + 8;  // + 8: conflict-free float2 stores
  static_assert(Product::kThreads / 32 * 16 * kStride * 4 <= Product::kSharedBytes, "staging fits the pipeline");
  constexpr int kLanesPerRow = kWidth / 8, kRowsAtOnce = 32 / kLanesPerRow, kPasses = 16 / kRowsAtOnce;
  const int lane = product.lane, chunk = lane % kLanesPerRow * 8;
  const int col = first_n + product.warp_n * kWidth;
  float* staging = dynamic_shared<float>() + (product.thread / 32) * 16 * kStride;
  float bias[8];
  if (output.wide) output.load_bias(col + chunk, bias);
#pragma unroll
  for (int i = 0; i < Product::kMmaM; ++i) {
    const int row = first_m + product.warp_m * Product::kWarpM + i * 16;
    uint4 base[kPasses];
    if (output.wide) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass)
        base[pass] = output.template load_base<T>(row + pass * kRowsAtOnce + lane / kLanesPerRow, col + chunk);
    }
#pragma unroll
    for (int j = 0; j < Product::kMmaN; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        store_vector(staging + (lane / 4 + 8 * half) * kStride + j * 8 + 2 * (lane % 4),
                     float2{product.accumulators[i][j][2 * half], product.accumulators[i][j][2 * half + 1]});
    __syncwarp();
    if (output.wide) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        const int r = pass * kRowsAtOnce + lane / kLanesPerRow;
        const float* source = staging + r * kStride + chunk;
        output.template write_chunk<T>(row + r, col + chunk, load_vector<float4>(source), load_vector<float4>(source + 4),
                                       base[pass], bias);
      }
    } else {
#pragma unroll 1
      for (int e = lane; e < 16 * kWidth; e += 32)
        output.write(row + e / kWidth, col + e % kWidth, staging[e / kWidth * kStride + e % kWidth]);
    }
    __syncwarp();
  }
}

template <class Product>
__global__ void __launch_bounds__(Product::kThreads) linear_mma_kernel(const LinearMmaParameters parameters) {
  constexpr int kTileK = Product::kTileK, kStages = Product::kStages;
  const int tiles_m = (parameters.output.rows + Product::kTileM - 1) / Product::kTileM;
  const int tiles_n = (parameters.output.out + Product::kTileN - 1) / Product::kTileN;
  int tile_m, tile_n;
  linear_tile(int(blockIdx.x), tiles_m, tiles_n, tile_m, tile_n);
  const int first_m = tile_m * Product::kTileM, first_n = tile_n * Product::kTileN;

  Product product(ptx::shared_address(dynamic_shared<char>()), int(threadIdx.x));
  const int tail_blocks = (parameters.rank + kTileK - 1) / kTileK;
  const int blocks = tail_blocks + (parameters.in + kTileK - 1) / kTileK;
  typename Product::Reader tail(parameters.s, parameters.up, first_m, first_n, 0, product.thread);
  typename Product::Reader main(parameters.x, parameters.weight, first_m, first_n, 0, product.thread);
  int stage = 0, ahead = kStages - 1;  // the stage multiplied and the one filled
#pragma unroll 1
  for (int block = 0; block < kStages - 1; ++block) {
    if (block < tail_blocks)
      tail.copy(product, block);
    else if (block < blocks)
      main.copy(product, block);
    ptx::cp_async_commit();
  }
#pragma unroll 1
  for (int block = 0; block < tail_blocks; ++block) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the tile has arrived for all, and all are done with the stage filled next
    if (block + kStages - 1 < tail_blocks)
      tail.copy(product, ahead);
    else if (block + kStages - 1 < blocks)
      main.copy(product, ahead);
    ptx::cp_async_commit();
    const int left = (parameters.rank - block * kTileK + 15) / 16;
    product.multiply(stage, left < kTileK / 16 ? left : kTileK / 16);
    stage = Product::next(stage), ahead = Product::next(ahead);
  }
  if (tail_blocks > 0) scale_and_drop(product, parameters, first_m, first_n);

#pragma unroll 1
  for (int block = tail_blocks; block < blocks; ++block) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();
    if (block + kStages - 1 < blocks) main.copy(product, ahead);
    ptx::cp_async_commit();
    product.multiply(stage);
    stage = Product::next(stage), ahead = Product::next(ahead);
  }
  ptx::cp_async_wait_all();
  __syncthreads();  // the pipeline's memory becomes the staging area
  write_output(product, parameters.output, first_m, first_n);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
