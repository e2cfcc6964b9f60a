// PTX ISA, "Warp-level matrix multiply-accumulate: mma", shape m16n8k16 with bf16 or f16 inputs and float accumulators
// (sm_80): D = A B + D for A [16 x 16] row-major, B [16 x 8] column-major.
//
// With group = lane / 4 and pair = lane % 4 a lane holds
//   A: word i, half h is A[group + 8 (i % 2)][2 pair + h + 8 (i / 2)]
//   B: word i, half h is B[2 pair + h + 8 i][group]
//   D: element i is D[group + 8 (i / 2)][2 pair + i % 2]
#pragma once

#include "device/numeric.cuh"
#include "device/ptx/mma_emulation.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

#if defined(LRK_EMULATE)
template <class T>
__forceinline__ void emulated_mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Held {
    uint32_t a[4], b[2];
  };
  emulated_mma("mma.m16n8k16", d, Held{{a[0], a[1], a[2], a[3]}, {b0, b1}},
               [](const emulator::Warp& warp, float (&sum)[16][8]) LRK_UNINSTRUMENTED {
                 float left[16][16], right[16][8];
                 for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
                   const auto& held = warp.input<Held>(lane);
                   const int group = lane / 4, pair = lane % 4;
                   for (int i = 0; i < 4; ++i) {
                     float* target = &left[group + 8 * (i % 2)][2 * pair + 8 * (i / 2)];
                     target[0] = low_half<T>(held.a[i]), target[1] = high_half<T>(held.a[i]);
                   }
                   for (int i = 0; i < 2; ++i) {
                     right[2 * pair + 8 * i][group] = low_half<T>(held.b[i]);
                     right[2 * pair + 8 * i + 1][group] = high_half<T>(held.b[i]);
                   }
                 }
                 add_product(left, right, sum);
               });
}
#endif

template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma_m16n8k16<BFloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                       uint32_t b1) {
#if defined(LRK_EMULATE)
  emulated_mma_m16n8k16<BFloat16>(d, a, b0, b1);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

template <>
__device__ __forceinline__ void mma_m16n8k16<Float16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                      uint32_t b1) {
#if defined(LRK_EMULATE)
  emulated_mma_m16n8k16<Float16>(d, a, b0, b1);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
