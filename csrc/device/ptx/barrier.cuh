// PTX ISA, "Parallel Synchronization and Communication Instructions: bar, barrier": named barriers between some of the
// warps of a block, numbered 1 to 15 (0 is __syncthreads). Whole warps take part; `threads`, a multiple of 32, counts
// all that come, those that wait and those that only arrive. Memory is ordered from all who come to those who wait.
#pragma once

#include "device/target.cuh"

#if defined(LRK_EMULATE)
#include "device/emulator/thread.h"
#endif

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

/// bar.sync: comes and waits until `threads` threads have come.
__device__ __forceinline__ void barrier_sync(unsigned id, unsigned threads) {
#if defined(LRK_EMULATE)
  emulator::barrier_sync(id, threads);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

/// bar.arrive: comes without waiting; the producer's half of a barrier.
__device__ __forceinline__ void barrier_arrive(unsigned id, unsigned threads) {
#if defined(LRK_EMULATE)
  emulator::barrier_arrive(id, threads);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
