// PTX ISA, "Memory Consistency Model", "ld", "st", "atom", "red" and "fence": strong accesses at device scope (.gpu) of
// 32- and 64-bit words in shared or global memory, for counters and flags that threads of a grid share. Integers only:
// the result of float atomics depends on the order in which threads come.
//
// An access with acquire sees what came before the release that it read from; a relaxed one orders nothing but itself.
#pragma once

#include <cstdint>
#include <type_traits>

#include "device/target.cuh"

#if defined(LRK_EMULATE)
#include "device/emulator/atomics.h"
#endif

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

#if defined(LRK_EMULATE)
using emulator::Order;
#else
enum class Order : uint8_t { kRelaxed, kAcquire, kRelease, kAcquireRelease };

// The same instruction with each `.sem`: PTX takes it as text, so as a literal of the asm statement.
#define LRK_PTX_LOAD(sem)                                                                                       \
  if constexpr (sizeof(T) == 4)                                                                                 \
    asm volatile("ld." sem ".gpu.b32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");                       \
  else                                                                                                          \
    asm volatile("ld." sem ".gpu.b64 %0, [%1];" : "=l"(value) : "l"(address) : "memory")
#define LRK_PTX_STORE(sem)                                                                                      \
  if constexpr (sizeof(T) == 4)                                                                                 \
    asm volatile("st." sem ".gpu.b32 [%0], %1;" ::"l"(address), "r"(value) : "memory");                         \
  else                                                                                                          \
    asm volatile("st." sem ".gpu.b64 [%0], %1;" ::"l"(address), "l"(value) : "memory")
#define LRK_PTX_ATOM(sem, operation, type)                                                                      \
  if constexpr (sizeof(T) == 4)                                                                                 \
    asm volatile("atom." sem ".gpu." operation "." type "32 %0, [%1], %2;"                                      \
                 : "=r"(old) : "l"(address), "r"(value) : "memory");                                            \
  else                                                                                                          \
    asm volatile("atom." sem ".gpu." operation "." type "64 %0, [%1], %2;"                                      \
                 : "=l"(old) : "l"(address), "l"(value) : "memory")
#define LRK_PTX_CAS(sem)                                                                                        \
  if constexpr (sizeof(T) == 4)                                                                                 \
    asm volatile("atom." sem ".gpu.cas.b32 %0, [%1], %2, %3;"                                                   \
                 : "=r"(old) : "l"(address), "r"(expected), "r"(value) : "memory");                             \
  else                                                                                                          \
    asm volatile("atom." sem ".gpu.cas.b64 %0, [%1], %2, %3;"                                                   \
                 : "=l"(old) : "l"(address), "l"(expected), "l"(value) : "memory")
#define LRK_PTX_RED(sem)                                                                                        \
  if constexpr (sizeof(T) == 4)                                                                                 \
    asm volatile("red." sem ".gpu.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");                    \
  else                                                                                                          \
    asm volatile("red." sem ".gpu.add.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory")
#endif

template <class T>
constexpr bool is_word = std::is_same_v<T, uint32_t> || std::is_same_v<T, uint64_t>;

/// ld.relaxed or ld.acquire.
template <Order kOrder, class T>
__device__ __forceinline__ T atomic_load(const T* address) {
  static_assert(is_word<T> && (kOrder == Order::kRelaxed || kOrder == Order::kAcquire), "a load can acquire");
#if defined(LRK_EMULATE)
  return emulator::atomic_load(address, kOrder, emulator::Scope::kGrid, "ld");
#else
  T value;
  if constexpr (kOrder == Order::kRelaxed) {
    LRK_PTX_LOAD("relaxed");
  } else {
    LRK_PTX_LOAD("acquire");
  }
  return value;
#endif
}

/// st.relaxed or st.release.
template <Order kOrder, class T>
__device__ __forceinline__ void atomic_store(T* address, T value) {
  static_assert(is_word<T> && (kOrder == Order::kRelaxed || kOrder == Order::kRelease), "a store can release");
#if defined(LRK_EMULATE)
  emulator::atomic_store(address, value, kOrder, emulator::Scope::kGrid, "st");
#else
  if constexpr (kOrder == Order::kRelaxed) {
    LRK_PTX_STORE("relaxed");
  } else {
    LRK_PTX_STORE("release");
  }
#endif
}

/// atom.add; returns the old value.
template <Order kOrder, class T>
__device__ __forceinline__ T atomic_add(T* address, T value) {
  static_assert(is_word<T>, "32 or 64 bits, unsigned");
#if defined(LRK_EMULATE)
  return emulator::atomic_update(
      address, [value](T old) { return T(old + value); }, kOrder, emulator::Scope::kGrid, "atom.add");
#else
  T old;
  if constexpr (kOrder == Order::kRelaxed) {
    LRK_PTX_ATOM("relaxed", "add", "u");
  } else if constexpr (kOrder == Order::kAcquire) {
    LRK_PTX_ATOM("acquire", "add", "u");
  } else if constexpr (kOrder == Order::kRelease) {
    LRK_PTX_ATOM("release", "add", "u");
  } else {
    LRK_PTX_ATOM("acq_rel", "add", "u");
  }
  return old;
#endif
}

/// atom.exch; returns the old value.
template <Order kOrder, class T>
__device__ __forceinline__ T atomic_exchange(T* address, T value) {
  static_assert(is_word<T>, "32 or 64 bits, unsigned");
#if defined(LRK_EMULATE)
  return emulator::atomic_update(
      address, [value](T) { return value; }, kOrder, emulator::Scope::kGrid, "atom.exch");
#else
  T old;
  if constexpr (kOrder == Order::kRelaxed) {
    LRK_PTX_ATOM("relaxed", "exch", "b");
  } else if constexpr (kOrder == Order::kAcquire) {
    LRK_PTX_ATOM("acquire", "exch", "b");
  } else if constexpr (kOrder == Order::kRelease) {
    LRK_PTX_ATOM("release", "exch", "b");
  } else {
    LRK_PTX_ATOM("acq_rel", "exch", "b");
  }
  return old;
#endif
}

/// atom.cas: stores `value` where `expected` is found; returns what was found.
template <Order kOrder, class T>
__device__ __forceinline__ T atomic_compare_exchange(T* address, T expected, T value) {
  static_assert(is_word<T>, "32 or 64 bits, unsigned");
#if defined(LRK_EMULATE)
  return emulator::atomic_update(
      address, [expected, value](T old) { return old == expected ? value : old; }, kOrder, emulator::Scope::kGrid,
      "atom.cas");
#else
  T old;
  if constexpr (kOrder == Order::kRelaxed) {
    LRK_PTX_CAS("relaxed");
  } else if constexpr (kOrder == Order::kAcquire) {
    LRK_PTX_CAS("acquire");
  } else if constexpr (kOrder == Order::kRelease) {
    LRK_PTX_CAS("release");
  } else {
    LRK_PTX_CAS("acq_rel");
  }
  return old;
#endif
}

/// red.add: atomic_add without the old value.
template <Order kOrder, class T>
__device__ __forceinline__ void atomic_reduce_add(T* address, T value) {
  static_assert(is_word<T> && (kOrder == Order::kRelaxed || kOrder == Order::kRelease), "a reduction can release");
#if defined(LRK_EMULATE)
  emulator::atomic_update(
      address, [value](T old) { return T(old + value); }, kOrder, emulator::Scope::kGrid, "red.add");
#else
  if constexpr (kOrder == Order::kRelaxed) {
    LRK_PTX_RED("relaxed");
  } else {
    LRK_PTX_RED("release");
  }
#endif
}

/// fence.acq_rel.gpu: releases by the relaxed accesses that follow, acquires through those that went before.
__device__ __forceinline__ void fence_gpu() {
#if defined(LRK_EMULATE)
  emulator::fence(emulator::Scope::kGrid);
#else
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}

/// fence.acq_rel.cta: the same between threads of the block.
__device__ __forceinline__ void fence_block() {
#if defined(LRK_EMULATE)
  emulator::fence(emulator::Scope::kBlock);
#else
  asm volatile("fence.acq_rel.cta;" ::: "memory");
#endif
}

#if !defined(LRK_EMULATE)
#undef LRK_PTX_LOAD
#undef LRK_PTX_STORE
#undef LRK_PTX_ATOM
#undef LRK_PTX_CAS
#undef LRK_PTX_RED
#endif

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
