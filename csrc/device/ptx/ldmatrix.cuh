// PTX ISA, "Warp-level matrix load instruction: ldmatrix" (sm_75): 8x8 matrices of 16-bit elements from shared memory.
//
// Lane 8 i + r gives the address of row r of matrix i (16 bytes, aligned). Lane l receives, of each matrix, elements
// (l / 4, 2 (l % 4)) and the next one; with .trans elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
#pragma once

#include "device/ptx/memory.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

#if defined(LRK_EMULATE)
template <int kCount, bool kTransposed>
__forceinline__ void emulated_ldmatrix(uint32_t (&fragment)[kCount], uint32_t address) {
  constexpr const char* kName = kTransposed ? "ldmatrix.trans" : "ldmatrix";
  struct Result {
    uint32_t word[kCount];
  } result;
  emulator::warp_aligned(kName, &address, &result, [](emulator::Warp& warp) LRK_UNINSTRUMENTED {
    for (int matrix = 0; matrix < kCount; ++matrix) {
      uint16_t element[8][8];
      for (int row = 0; row < 8; ++row) {
        // Who receives the row: four neighbours; transposed, one lane of each four.
        const uint32_t lanes = kTransposed ? 0x11111111u << row / 2 : 0xfu << 4 * row;
        const uint32_t from = warp.input<uint32_t>(8 * matrix + row);
        memcpy(element[row], emulator::shared_for_read(from, 16, 16, kName, lanes), 16);
      }
      for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
        const int i = lane / 4, j = 2 * (lane % 4);
        const uint32_t low = kTransposed ? element[j][i] : element[i][j];
        const uint32_t high = kTransposed ? element[j + 1][i] : element[i][j + 1];
        warp.output<Result>(lane).word[matrix] = low | high << 16;
      }
    }
  });
  memcpy(fragment, result.word, sizeof(fragment));
}
#endif

template <bool kTransposed = false>
__device__ __forceinline__ void ldmatrix_x1(uint32_t (&fragment)[1], uint32_t address) {
#if defined(LRK_EMULATE)
  emulated_ldmatrix<1, kTransposed>(fragment, address);
#else
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(fragment[0]) : "r"(address) : "memory");
#endif
}

template <bool kTransposed = false>
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&fragment)[2], uint32_t address) {
#if defined(LRK_EMULATE)
  emulated_ldmatrix<2, kTransposed>(fragment, address);
#else
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1]) : "r"(address) : "memory");
#endif
}

template <bool kTransposed = false>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&fragment)[4], uint32_t address) {
#if defined(LRK_EMULATE)
  emulated_ldmatrix<4, kTransposed>(fragment, address);
#else
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address) : "memory");
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
