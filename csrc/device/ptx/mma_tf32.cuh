// PTX ISA, "Warp-level matrix multiply-accumulate: mma", shape m16n8k8 with tf32 inputs and float accumulators (sm_80):
// D = A B + D for A [16 x 8] row-major, B [8 x 8] column-major.
//
// With group = lane / 4 and pair = lane % 4 a lane holds
//   A: word i is A[group + 8 (i % 2)][pair + 4 (i / 2)]
//   B: word i is B[pair + 4 i][group]
//   D: element i is D[group + 8 (i / 2)][2 pair + i % 2]
// A word is a float whose 13 low bits do not take part; ptx::round_to_tf32 makes one.
#pragma once

#include "device/ptx/convert.cuh"
#include "device/ptx/mma_emulation.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(LRK_EMULATE)
  struct Held {
    uint32_t a[4], b[2];
  };
  emulated_mma("mma.m16n8k8.tf32", d, Held{{a[0], a[1], a[2], a[3]}, {b0, b1}},
               [](const emulator::Warp& warp, float (&sum)[16][8]) LRK_UNINSTRUMENTED {
                 constexpr uint32_t kTf32Bits = 0xffffe000u;
                 float left[16][8], right[8][8];
                 for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
                   const auto& held = warp.input<Held>(lane);
                   const int group = lane / 4, pair = lane % 4;
                   for (int i = 0; i < 4; ++i)
                     left[group + 8 * (i % 2)][pair + 4 * (i / 2)] = bits_to_float(held.a[i] & kTf32Bits);
                   for (int i = 0; i < 2; ++i) right[pair + 4 * i][group] = bits_to_float(held.b[i] & kTf32Bits);
                 }
                 add_product(left, right, sum);
               });
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
