// PTX ISA, "Warp-level matrix store instruction: stmatrix" (sm_90): 8x8 matrices of 16-bit elements to shared memory,
// the inverse of ldmatrix.
//
// Lane 8 i + r gives the address of row r of matrix i (16 bytes, aligned). Lane l gives, of each matrix, elements
// (l / 4, 2 (l % 4)) and the next one; with .trans elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
//
// Below sm_90 the same elements go to the same places by shuffled addresses and plain stores, so a kernel that uses it
// stays right there; one that should be fast there stores its fragments itself.
#pragma once

#include "device/ptx/memory.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

#if defined(LRK_EMULATE)
template <int kCount, bool kTransposed>
__forceinline__ void emulated_stmatrix(uint32_t address, const uint32_t (&fragment)[kCount]) {
  static constexpr const char* kName = kTransposed ? "stmatrix.trans" : "stmatrix";
  struct Held {
    uint32_t address, word[kCount];
  } held;
  held.address = address;
  memcpy(held.word, fragment, sizeof(fragment));
  emulator::warp_aligned(kName, &held, nullptr, [](emulator::Warp& warp) LRK_UNINSTRUMENTED {
    for (int matrix = 0; matrix < kCount; ++matrix)
      for (int lane = 0; lane < emulator::kWarpSize; ++lane)
        for (int half = 0; half < 2; ++half) {
          const int i = lane / 4, j = 2 * (lane % 4) + half;
          const uint32_t row = warp.input<Held>(8 * matrix + (kTransposed ? j : i)).address;
          if (row % 16 != 0) emulator::fault(kName, "the address of a row is not a multiple of 16");
          const uint16_t element = uint16_t(warp.input<Held>(lane).word[matrix] >> (16 * half));
          memcpy(emulator::shared_for_write(row + 2 * (kTransposed ? i : j), 2, 2, kName, 1u << lane), &element, 2);
        }
  });
}
#elif __CUDA_ARCH__ < 900
template <int kCount, bool kTransposed>
__device__ __forceinline__ void stored_by_lanes(uint32_t address, const uint32_t (&fragment)[kCount]) {
  const int lane = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
#pragma unroll
  for (int matrix = 0; matrix < kCount; ++matrix) {
    const uint16_t low = uint16_t(fragment[matrix]), high = uint16_t(fragment[matrix] >> 16);
    const int row = 8 * matrix + (kTransposed ? 2 * (lane % 4) : lane / 4);
    const uint32_t first = __shfl_sync(0xffffffffu, address, row);
    if constexpr (kTransposed) {
      const uint32_t second = __shfl_sync(0xffffffffu, address, row + 1);
      store_shared_2(first + lane / 4 * 2, low);
      store_shared_2(second + lane / 4 * 2, high);
    } else {
      store_shared_2(first + lane % 4 * 4, low);
      store_shared_2(first + lane % 4 * 4 + 2, high);
    }
  }
}
#endif

template <bool kTransposed = false>
__device__ __forceinline__ void stmatrix_x1(uint32_t address, const uint32_t (&fragment)[1]) {
#if defined(LRK_EMULATE)
  emulated_stmatrix<1, kTransposed>(address, fragment);
#elif __CUDA_ARCH__ < 900
  stored_by_lanes<1, kTransposed>(address, fragment);
#else
  if constexpr (kTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};"
                 ::"r"(address), "r"(fragment[0]) : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(address), "r"(fragment[0]) : "memory");
#endif
}

template <bool kTransposed = false>
__device__ __forceinline__ void stmatrix_x2(uint32_t address, const uint32_t (&fragment)[2]) {
#if defined(LRK_EMULATE)
  emulated_stmatrix<2, kTransposed>(address, fragment);
#elif __CUDA_ARCH__ < 900
  stored_by_lanes<2, kTransposed>(address, fragment);
#else
  if constexpr (kTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};"
                 ::"r"(address), "r"(fragment[0]), "r"(fragment[1]) : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};"
                 ::"r"(address), "r"(fragment[0]), "r"(fragment[1]) : "memory");
#endif
}

template <bool kTransposed = false>
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t (&fragment)[4]) {
#if defined(LRK_EMULATE)
  emulated_stmatrix<4, kTransposed>(address, fragment);
#elif __CUDA_ARCH__ < 900
  stored_by_lanes<4, kTransposed>(address, fragment);
#else
  if constexpr (kTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(address), "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3]) : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(address), "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3]) : "memory");
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
