// PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy: Non-bulk copy" (sm_80): cp.async and groups.
#pragma once

#include "device/ptx/memory.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

/// cp.async of kBytes (4, 8 or 16) from global to shared memory; reads `source_bytes` of them and fills the rest with
/// zeros. 16-byte copies bypass L1 (.cg), the smaller sizes exist only as .ca.
template <int kBytes>
__device__ __forceinline__ void cp_async(uint32_t destination, const void* source, int source_bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if defined(LRK_EMULATE)
  emulator::async_copy(destination, source, kBytes, source_bytes);
#else
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(source_bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source), "n"(kBytes),
                 "r"(source_bytes) : "memory");
#endif
}

/// cp.async.commit_group: closes the running group (it may be empty).
__device__ __forceinline__ void cp_async_commit() {
#if defined(LRK_EMULATE)
  emulator::async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// cp.async.wait_group: at most kPending of this thread's youngest groups are still in flight afterwards.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
#if defined(LRK_EMULATE)
  emulator::async_wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

/// cp.async.wait_all: nothing this thread issued is in flight afterwards.
__device__ __forceinline__ void cp_async_wait_all() {
#if defined(LRK_EMULATE)
  emulator::async_wait_all();
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
