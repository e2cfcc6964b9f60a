// The loop of a product whose tiles come through cp.async: kStages of them in shared memory, one being multiplied.
#pragma once

#include "device/ptx/cp_async.cuh"
#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// Adds `blocks` tiles of the sum to the product. copy(block, stage) starts the copies of a tile of both operands, in
/// order; k_steps(block) tells how many slices of 16 of it count. Ends with a barrier: the stages are free.
template <class Product, class Copy, class Steps>
__device__ __forceinline__ void pipelined_sum(Product& product, int blocks, const Copy& copy, const Steps& k_steps) {
  constexpr int kStages = Product::kStages;
  int stage = 0, ahead = kStages - 1;  // the stage multiplied and the one filled
#pragma unroll 1
  for (int block = 0; block < kStages - 1; ++block) {
    if (block < blocks) copy(block, block);
    ptx::cp_async_commit();
  }
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the tile has arrived for all, and all are done with the stage filled next
    if (block + kStages - 1 < blocks) copy(block + kStages - 1, ahead);
    ptx::cp_async_commit();
    product.multiply(stage, k_steps(block));
    stage = Product::next(stage), ahead = Product::next(ahead);
  }
  ptx::cp_async_wait_all();
  __syncthreads();
}

}  // namespace LRK_TARGET
}  // namespace lrk
