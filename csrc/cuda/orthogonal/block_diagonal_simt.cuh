// y_n = x_n R_n and dR_n = x_nt g_n for float32: FMA only, no TF32.
//
// Floor: x and y once (dR: x and g once), 2 block operations an element: memory's up to blocks of about 32.
// Idea: one tiled product for either; what is transposed is so by its strides. Neighbouring blocks of threads have
// neighbouring n, whose parts of a row are neighbours in memory. Tiles have 32 columns and take 16 of the sum at a time,
// so smaller blocks multiply zeros, and larger ones read their part of x once every 32 columns, as a rule from L2.
#pragma once

#include "device/simt_product.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

struct BlockApplySimtParameters {
  FloatOperand x, matrices;  // of n = 0; element (j, k) of the second is R[k, j]
  int block = 0, tiles = 0;
  int64_t count = 0, matrix_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  bool wide_y = false;  // chunks of four are aligned, and a block is whole ones
};

using BlockApplySimtProduct = SimtProduct<128, 32, 128, 8>;

__global__ void __launch_bounds__(BlockApplySimtProduct::kThreads)
    block_apply_simt_kernel(const BlockApplySimtParameters parameters) {
  using Product = BlockApplySimtProduct;
  const int64_t n = int64_t(blockIdx.x) % parameters.count, rest = int64_t(blockIdx.x) / parameters.count;
  const int tile = int(rest % parameters.tiles), first_j = tile * Product::kTileN, block = parameters.block;
  const int64_t first_m = rest / parameters.tiles * Product::kTileM;
  FloatOperand x = parameters.x, matrices = parameters.matrices;
  x.data += n * block, matrices.data += n * parameters.matrix_stride;
  Product product(dynamic_shared<float>(), int(threadIdx.x));
  product.accumulate(x, matrices, int(first_m), first_j, 0, block, OperandDropout{});
  float* const y = parameters.y + n * block;
#pragma unroll
  for (int i = 0; i < Product::kPerThreadM; ++i) {
    const int64_t row = first_m + product.row_of(i);
    if (row >= x.extent) continue;
#pragma unroll
    for (int j = 0; j < Product::kPerThreadN; j += 4) {
      const int column = first_j + product.col_of(j);
      float* const to = y + row * parameters.y_stride + column;
      const float(&sum)[Product::kPerThreadN] = product.accumulators[i];
      if (parameters.wide_y) {
        if (column < block) store_vector(to, float4{sum[j], sum[j + 1], sum[j + 2], sum[j + 3]});
      } else {
#pragma unroll
        for (int q = 0; q < 4; ++q)
          if (column + q < block) to[q] = sum[j + q];
      }
    }
  }
}

/// partials[split, n] = left_nt right_n over the split's rows.
struct BlockGradSimtParameters {
  FloatOperand left, right;  // of n = 0, summed over rows: x and g, transposed g and x
  int block = 0, tiles = 0, splits = 1, rows = 0, rows_a_split = 0;
  int64_t count = 0;
  float* partials = nullptr;  // [splits, count, block, block]
};

using BlockGradSimtProduct = SimtProduct<32, 32, 64, 8>;

__global__ void __launch_bounds__(BlockGradSimtProduct::kThreads)
    block_grad_simt_kernel(const BlockGradSimtParameters parameters) {
  using Product = BlockGradSimtProduct;
  const int64_t n = int64_t(blockIdx.x) % parameters.count, rest = int64_t(blockIdx.x) / parameters.count;
  const int tiles = parameters.tiles, tile = int(rest % (tiles * tiles)), split = int(rest / (tiles * tiles));
  const int block = parameters.block;
  const int first_i = tile / tiles * Product::kTileM, first_j = tile % tiles * Product::kTileN;
  const int first_row = split * parameters.rows_a_split;
  const int end_row = parameters.rows - first_row < parameters.rows_a_split ? parameters.rows
                                                                            : first_row + parameters.rows_a_split;
  FloatOperand left = parameters.left, right = parameters.right;
  left.data += n * block, right.data += n * block;
  Product product(dynamic_shared<float>(), int(threadIdx.x));
  product.accumulate(left, right, first_i, first_j, first_row, end_row, OperandDropout{});
  float* const out = parameters.partials + (split * parameters.count + n) * block * block;
#pragma unroll
  for (int i = 0; i < Product::kPerThreadM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kPerThreadN; ++j) {
      const int row = first_i + product.row_of(i), column = first_j + product.col_of(j);
      if (row < block && column < block) out[int64_t(row) * block + column] = product.accumulators[i][j];
    }
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
