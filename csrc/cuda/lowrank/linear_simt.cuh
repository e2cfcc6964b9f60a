// y = x weightT + base + scale * mask . (s upT) + bias for float32: FMA only, no TF32.
//
// Floor: 2 rows out (in + rank) float32 operations; every operand read once, y written once.
// Idea: as in linear_mma.cuh the low-rank term comes first and is scaled and masked in registers; operands have any
// strides, because their copies into shared memory transpose on the way.
#pragma once

#include "cuda/lowrank/linear_output.cuh"
#include "device/simt_product.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

struct LinearSimtParameters {
  FloatOperand x, weight, s, up;
  int in = 0, rank = 0;
  float scale = 1.0f;
  DropoutParameters dropout;
  LinearOutput output;
};

template <class Product>
__global__ void __launch_bounds__(Product::kThreads) linear_simt_kernel(const LinearSimtParameters parameters) {
  const LinearOutput& output = parameters.output;
  const int tiles_n = (output.out + Product::kTileN - 1) / Product::kTileN;
  const int first_m = int(blockIdx.x) / tiles_n * Product::kTileM;
  const int first_n = int(blockIdx.x) % tiles_n * Product::kTileN;
  Product product(dynamic_shared<float>(), int(threadIdx.x));

  if (parameters.rank > 0) {
    product.accumulate(parameters.s, parameters.up, first_m, first_n, 0, parameters.rank, OperandDropout{});
    const DropoutParameters& dropout = parameters.dropout;
    const uint64_t seed = dropout.seed != nullptr ? uint64_t(*dropout.seed) : 0;
    const float scale = parameters.scale * dropout.scale;
#pragma unroll
    for (int i = 0; i < Product::kPerThreadM; ++i)
#pragma unroll
      for (int j = 0; j < Product::kPerThreadN; j += 4) {
        const uint64_t index = uint64_t(first_m + product.row_of(i)) * uint64_t(output.out) +
                               uint64_t(first_n + product.col_of(j));
        const uint32_t keep = dropout.seed != nullptr ? dropout_keep_bits<4>(seed, index, dropout.threshold) : 15u;
#pragma unroll
        for (int q = 0; q < 4; ++q)
          product.accumulators[i][j + q] = keep >> q & 1 ? product.accumulators[i][j + q] * scale : 0.0f;
      }
  }
  if (parameters.in > 0)
    product.accumulate(parameters.x, parameters.weight, first_m, first_n, 0, parameters.in, OperandDropout{});

#pragma unroll
  for (int i = 0; i < Product::kPerThreadM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kPerThreadN; ++j)
      output.write(first_m + product.row_of(i), first_n + product.col_of(j), product.accumulators[i][j]);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
