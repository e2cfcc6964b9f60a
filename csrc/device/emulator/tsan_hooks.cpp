// The functions that -fsanitize=thread makes a compiler call at every memory access (g++ 12, clang 14; declared in
// compiler-rt's tsan_interface.h and tsan_interface_atomic.h), answered by the checked mode instead of by libtsan,
// which is not linked. Only kernels and their launchers are compiled so.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "device/emulator/atomics.h"
#include "device/emulator/checker.h"
#include "device/emulator/watch.h"

namespace lrk::emulator {
namespace {

inline void note(const volatile void* address, size_t bytes, bool write, size_t alignment, const void* pc) {
  if (Checker* checker = watching) checker->access(const_cast<const void*>(address), bytes, write, pc, alignment);
}

/// 16 bytes at once may be two accesses of 8: those of 16 go through vector.cuh, which looks itself.
constexpr size_t natural(size_t bytes) { return bytes < 8 ? bytes : 8; }

/// CUDA's volatile is a relaxed operation of system scope. The hook runs before the access, so between blocks of
/// different operating-system threads a flag belongs in atomics.h.
inline void note_volatile(const volatile void* address, size_t bytes, bool write, const void* pc) {
  Checker* checker = watching;
  if (checker == nullptr) return;
  const Unwatched unwatched;
  const auto* plain = const_cast<const void*>(address);
  checker->strong_access(plain, bytes, write, pc);  // first: a fault does not come back to release the lock
  const std::lock_guard<std::mutex> lock(lrk::emulator::strong_operations());
  if (write)
    checker->publish(plain, false, Scope::kGrid, false);
  else
    checker->observe(plain, false, Scope::kGrid);
}

}  // namespace
}  // namespace lrk::emulator

using lrk::emulator::natural;
using lrk::emulator::note;
using lrk::emulator::note_volatile;

// libtsan's interface is visible to every instrumented library of a process. This one is the kernels' alone.
#define LRK_HOOK extern "C" __attribute__((visibility("hidden")))
#define LRK_PC __builtin_return_address(0)

#define LRK_ACCESS_HOOKS(size)                                                                                    \
  LRK_HOOK void __tsan_read##size(void* address) { note(address, size, false, natural(size), LRK_PC); } \
  LRK_HOOK void __tsan_write##size(void* address) { note(address, size, true, natural(size), LRK_PC); } \
  LRK_HOOK void __tsan_unaligned_read##size(void* address) { note(address, size, false, 1, LRK_PC); }             \
  LRK_HOOK void __tsan_unaligned_write##size(void* address) { note(address, size, true, 1, LRK_PC); }             \
  LRK_HOOK void __tsan_volatile_read##size(void* address) { note_volatile(address, size, false, LRK_PC); }        \
  LRK_HOOK void __tsan_volatile_write##size(void* address) { note_volatile(address, size, true, LRK_PC); }        \
  LRK_HOOK void __tsan_unaligned_volatile_read##size(void* address) { note_volatile(address, size, false, LRK_PC); } \
  LRK_HOOK void __tsan_unaligned_volatile_write##size(void* address) { note_volatile(address, size, true, LRK_PC); } \
  LRK_HOOK void __tsan_read_write##size(void* address) { note(address, size, true, natural(size), LRK_PC); } \
  LRK_HOOK void __tsan_unaligned_read_write##size(void* address) { note(address, size, true, 1, LRK_PC); }
LRK_ACCESS_HOOKS(1)
LRK_ACCESS_HOOKS(2)
LRK_ACCESS_HOOKS(4)
LRK_ACCESS_HOOKS(8)
LRK_ACCESS_HOOKS(16)

LRK_HOOK void __tsan_read_range(void* address, size_t bytes) { note(address, bytes, false, 1, LRK_PC); }
LRK_HOOK void __tsan_write_range(void* address, size_t bytes) { note(address, bytes, true, 1, LRK_PC); }
LRK_HOOK void __tsan_vptr_read(void** address) { note(address, sizeof(void*), false, 1, LRK_PC); }
LRK_HOOK void __tsan_vptr_update(void** address, void*) { note(address, sizeof(void*), true, 1, LRK_PC); }
LRK_HOOK void __tsan_init() {}
LRK_HOOK void __tsan_func_entry(void*) {}
LRK_HOOK void __tsan_func_exit() {}
LRK_HOOK void __tsan_ignore_thread_begin() {}
LRK_HOOK void __tsan_ignore_thread_end() {}

// --- Copies. clang calls these three; with g++ memory_functions.h gives the C functions' calls these names.

LRK_HOOK void* __tsan_memcpy(void* target, const void* source, size_t bytes) {
  note(source, bytes, false, 1, LRK_PC), note(target, bytes, true, 1, LRK_PC);
  return memcpy(target, source, bytes);
}
LRK_HOOK void* __tsan_memmove(void* target, const void* source, size_t bytes) {
  note(source, bytes, false, 1, LRK_PC), note(target, bytes, true, 1, LRK_PC);
  return memmove(target, source, bytes);
}
LRK_HOOK void* __tsan_memset(void* target, int value, size_t bytes) {
  note(target, bytes, true, 1, LRK_PC);
  return memset(target, value, bytes);
}

// --- std::atomic and the __atomic builtins: emulated like atom, ld and st of .gpu scope inside kernels, themselves
// elsewhere. Sequentially consistent operations order as acquire and release do, no more.

namespace {

using lrk::emulator::Order;
using lrk::emulator::Scope;
using lrk::emulator::watching;

Order order_of(int order) {
  switch (order) {
    case __ATOMIC_RELAXED: return Order::kRelaxed;
    case __ATOMIC_CONSUME:
    case __ATOMIC_ACQUIRE: return Order::kAcquire;
    case __ATOMIC_RELEASE: return Order::kRelease;
    default: return Order::kAcquireRelease;
  }
}

template <class T>
T load(const volatile T* address, int order) {
  if (watching == nullptr) return __atomic_load_n(address, __ATOMIC_SEQ_CST);
  return T(lrk::emulator::strong_load(const_cast<const T*>(address), sizeof(T), order_of(order), Scope::kGrid,
                                      "an atomic load"));
}

template <class T>
void store(volatile T* address, T value, int order) {
  if (watching == nullptr) return __atomic_store_n(address, value, __ATOMIC_SEQ_CST);
  lrk::emulator::strong_store(const_cast<T*>(address), sizeof(T), uint64_t(value), order_of(order), Scope::kGrid,
                              "an atomic store");
}

/// *address = change(*address); the old value.
template <class T, class Change>
T update(volatile T* address, int order, const Change& change) {
  if (watching == nullptr) {
    T old = __atomic_load_n(address, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(address, &old, change(old), true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return old;
  }
  return lrk::emulator::atomic_update(const_cast<T*>(address), change, order_of(order), Scope::kGrid,
                                      "an atomic update");
}

template <class T>
bool compare_exchange(volatile T* address, T* expected, T value, int order) {
  const T wanted = *expected;
  const T old = update(address, order, [=](T now) { return now == wanted ? value : now; });
  *expected = old;
  return old == wanted;
}

}  // namespace

#define LRK_UPDATE_HOOK(bits, name, expression)                                                                      \
  LRK_HOOK uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t* address, uint##bits##_t value,       \
                                                       int order) {                                                  \
    return update(address, order, [=]([[maybe_unused]] uint##bits##_t now) { return uint##bits##_t(expression); });  \
  }
#define LRK_ATOMIC_HOOKS(bits)                                                                                       \
  LRK_HOOK uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* address, int order) {            \
    return load(address, order);                                                                                     \
  }                                                                                                                  \
  LRK_HOOK void __tsan_atomic##bits##_store(volatile uint##bits##_t* address, uint##bits##_t value, int order) {     \
    store(address, value, order);                                                                                    \
  }                                                                                                                  \
  LRK_UPDATE_HOOK(bits, exchange, value)                                                                             \
  LRK_UPDATE_HOOK(bits, fetch_add, now + value)                                                                      \
  LRK_UPDATE_HOOK(bits, fetch_sub, now - value)                                                                      \
  LRK_UPDATE_HOOK(bits, fetch_and, now& value)                                                                       \
  LRK_UPDATE_HOOK(bits, fetch_or, now | value)                                                                       \
  LRK_UPDATE_HOOK(bits, fetch_xor, now ^ value)                                                                      \
  LRK_UPDATE_HOOK(bits, fetch_nand, ~(now & value))                                                                  \
  LRK_HOOK int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* address,                       \
                                                             uint##bits##_t* expected, uint##bits##_t value,         \
                                                             int order, int) {                                       \
    return compare_exchange(address, expected, value, order);                                                        \
  }                                                                                                                  \
  LRK_HOOK int __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t* address,                         \
                                                           uint##bits##_t* expected, uint##bits##_t value,           \
                                                           int order, int) {                                         \
    return compare_exchange(address, expected, value, order);                                                        \
  }                                                                                                                  \
  LRK_HOOK uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(                                                \
      volatile uint##bits##_t* address, uint##bits##_t expected, uint##bits##_t value, int order, int) {             \
    compare_exchange(address, &expected, value, order);                                                              \
    return expected;                                                                                                 \
  }
LRK_ATOMIC_HOOKS(8)
LRK_ATOMIC_HOOKS(16)
LRK_ATOMIC_HOOKS(32)
LRK_ATOMIC_HOOKS(64)

LRK_HOOK void __tsan_atomic_thread_fence(int) {
  if (watching != nullptr) lrk::emulator::fence(Scope::kGrid);
}
LRK_HOOK void __tsan_atomic_signal_fence(int) {}
