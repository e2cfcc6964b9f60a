// PTX ISA, "Matrix multiply-accumulate operation using mma.sp instruction with sparse matrix A", shape m16n8k32 with
// bf16 or f16 inputs, float accumulators and ordered metadata (sm_80, PTX 8.5): D = A B + D for A [16 x 32] row-major,
// of which each aligned group of four in a row keeps two values, and B [32 x 8] column-major.
//
// With group = lane / 4 and pair = lane % 4 a lane holds
//   A: word i has both kept values of row group + 8 (i % 2), columns 4 pair + 16 (i / 2) and the three after it
//   B: word i, half h is B[2 pair + h + 8 i][group]
//   D: element i is D[group + 8 (i / 2)][2 pair + i % 2]
// and, for the selector s, the lanes with pair = 2 s and 2 s + 1 give the metadata of their group: of columns 0-15 the
// first, of columns 16-31 the second; row group in the low half, row group + 8 in the high half; four bits for four
// columns, lowest columns lowest: the position of the first kept value, then of the second, first < second. What is not
// kept takes no part: an infinity in B that meets no kept value leaves no NaN.
#pragma once

#include <type_traits>

#include "device/numeric.cuh"
#include "device/ptx/mma_emulation.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

#if defined(LRK_EMULATE)
template <class T, int kSelector>
__forceinline__ void emulated_mma_sp_m16n8k32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                              uint32_t metadata) {
  struct Held {
    uint32_t a[4], b[4], metadata;
  };
  emulated_mma("mma.sp.m16n8k32", d, Held{{a[0], a[1], a[2], a[3]}, {b[0], b[1], b[2], b[3]}, metadata},
               [](const emulator::Warp& warp, float (&sum)[16][8]) LRK_UNINSTRUMENTED {
                 float kept[16][16], right[32][8];  // kept[m][2 j] and [2 j + 1] are of columns 4 j .. 4 j + 3
                 int column[16][16];
                 for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
                   const auto& held = warp.input<Held>(lane);
                   const int group = lane / 4, pair = lane % 4;
                   for (int i = 0; i < 4; ++i) {
                     const int row = group + 8 * (i % 2), chunk = pair + 4 * (i / 2);
                     const uint32_t word = warp.input<Held>(4 * group + 2 * kSelector + i / 2).metadata;
                     const int first = word >> (16 * (i % 2) + 4 * pair) & 3;
                     const int second = word >> (16 * (i % 2) + 4 * pair + 2) & 3;
                     if (first >= second)
                       emulator::fault("mma.sp::ordered_metadata", "the positions of a group do not increase");
                     kept[row][2 * chunk] = low_half<T>(held.a[i]);
                     kept[row][2 * chunk + 1] = high_half<T>(held.a[i]);
                     column[row][2 * chunk] = 4 * chunk + first, column[row][2 * chunk + 1] = 4 * chunk + second;
                   }
                   for (int i = 0; i < 4; ++i) {
                     right[2 * pair + 8 * i][group] = low_half<T>(held.b[i]);
                     right[2 * pair + 8 * i + 1][group] = high_half<T>(held.b[i]);
                   }
                 }
                 for (int m = 0; m < 16; ++m)
                   for (int j = 0; j < 16; ++j)
                     for (int n = 0; n < 8; ++n) sum[m][n] += kept[m][j] * right[column[m][j]][n];
               });
}
#endif

/// kSelector: which lanes' metadata counts, 0 or 1; what the other lanes pass is ignored.
template <class T, int kSelector>
__device__ __forceinline__ void mma_sp_m16n8k32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                                uint32_t metadata) {
  static_assert(kSelector == 0 || kSelector == 1, "m16n8k32 has two pairs of lanes that can give metadata");
  static_assert(std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>, "the inputs are bf16 or f16");
#if defined(LRK_EMULATE)
  emulated_mma_sp_m16n8k32<T, kSelector>(d, a, b, metadata);
#else
  if constexpr (std::is_same_v<T, BFloat16>)
    asm volatile(
        "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
          "n"(kSelector));
  else
    asm volatile(
        "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
          "n"(kSelector));
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
