// What the emulated forms of PTX ISA, "Warp-level matrix multiply-accumulate: mma" and "mma.sp" have in common: the
// warp meets, A and B are put together from what the lanes hold, and every lane gets its part of A B added.
//
// The tensor core rounds the sum of the products in an order and to a precision that the manual leaves open; here it is
// a float sum in increasing k, so results agree with a GPU's bit for bit only where every partial sum is exact.
#pragma once

#include "device/target.cuh"

#if defined(LRK_EMULATE)
namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

/// d += this lane's part of the product [16 x 8] that product(warp, sum) adds up from all lanes' `held`: element i of d
/// is element (lane / 4 + 8 (i / 2), 2 (lane % 4) + i % 2).
template <class Held, class Product>
__forceinline__ void emulated_mma(const char* name, float (&d)[4], const Held& held, Product product) {
  struct Accumulators {
    float element[4];
  } accumulators;
  memcpy(accumulators.element, d, sizeof(d));
  emulator::warp_aligned(name, &held, &accumulators, [&](emulator::Warp& warp) LRK_UNINSTRUMENTED {
    float sum[16][8] = {};
    product(warp, sum);
    for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
      auto& target = warp.output<Accumulators>(lane);
      for (int i = 0; i < 4; ++i) target.element[i] += sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
  });
  memcpy(d, accumulators.element, sizeof(d));
}

template <int kK>
LRK_UNINSTRUMENTED void add_product(const float (&left)[16][kK], const float (&right)[kK][8], float (&sum)[16][8]) {
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < kK; ++k)
      for (int n = 0; n < 8; ++n) sum[m][n] += left[m][k] * right[k][n];
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
#endif
