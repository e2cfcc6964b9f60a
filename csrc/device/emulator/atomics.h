// Strong memory operations of a running CUDA thread on shared or global memory, also between blocks (which may run on
// several operating-system threads): what atom, red, ld.acquire, st.release, volatile accesses and fences are made of.
// They take effect at once and one after another. What they order is what the PTX memory model (PTX ISA, "Memory
// Consistency Model") says of `order` and `scope`: in checked mode accesses of two threads are ordered through these
// operations and barriers, or they race.
#pragma once

#include <mutex>
#include <cstdint>
#include <type_traits>

#include "device/emulator/thread.h"

namespace lrk::emulator {

/// All strong operations take effect one after another, in every block, under this lock.
std::mutex& strong_operations();

enum class Order : uint8_t { kRelaxed, kAcquire, kRelease, kAcquireRelease };
enum class Scope : uint8_t { kBlock, kGrid };  // .cta and .gpu

/// Without types. `bytes` is 1, 2, 4 or 8, and alignment too; strong_update returns the old value.
uint64_t strong_load(const void* address, size_t bytes, Order order, Scope scope, const char* operation);
void strong_store(void* address, size_t bytes, uint64_t value, Order order, Scope scope, const char* operation);
uint64_t strong_update(void* address, size_t bytes, Order order, Scope scope, const char* operation,
                       uint64_t (*update)(uint64_t old, const void* closure), const void* closure);

/// fence.acq_rel.scope, __threadfence and __threadfence_block: makes a release of the relaxed operations that follow
/// and an acquire of those that went before.
void fence(Scope scope);

// --- With types: integers only, since no kernel may depend on the order of float atomics.

template <class T>
__attribute__((always_inline)) inline T atomic_load(const T* address, Order order = Order::kRelaxed,
                                                    Scope scope = Scope::kGrid, const char* operation = "ld.relaxed") {
  static_assert(std::is_integral_v<T>);
  return T(strong_load(address, sizeof(T), order, scope, operation));
}

template <class T>
__attribute__((always_inline)) inline void atomic_store(T* address, T value, Order order = Order::kRelaxed,
                                                        Scope scope = Scope::kGrid,
                                                        const char* operation = "st.relaxed") {
  static_assert(std::is_integral_v<T>);
  strong_store(address, sizeof(T), uint64_t(value), order, scope, operation);
}

/// *address = update(*address) in one step; returns the old value.
template <class T, class Update>
__attribute__((always_inline)) inline T atomic_update(T* address, const Update& update, Order order = Order::kRelaxed,
                                                      Scope scope = Scope::kGrid, const char* operation = "atom") {
  static_assert(std::is_integral_v<T>);
  return T(strong_update(
      address, sizeof(T), order, scope, operation,
      [](uint64_t old, const void* closure) { return uint64_t((*static_cast<const Update*>(closure))(T(old))); },
      &update));
}

}  // namespace lrk::emulator
