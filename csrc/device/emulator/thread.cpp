// thread.h and atomics.h for the block that the calling operating-system thread is running.
#include "device/emulator/thread.h"

#include <cstring>
#include <mutex>

#include "device/emulator/atomics.h"
#include "device/emulator/block.h"
#include "device/emulator/checker.h"
#include "device/emulator/watch.h"

// Where the kernel called. Correct in functions that are not inlined, which those of this file cannot be.
#define LRK_CALLER __builtin_return_address(0)

namespace lrk::emulator {

void fault(std::string what) {
  Fault report;
  report.what = std::move(what);
  Block::current()->fail(std::move(report));
}

void fault(const char* operation, const char* problem) {
  const Unwatched unwatched;
  fault(std::string(operation) + ": " + problem);
}

Dim3 thread_index() { return Block::current()->thread_index(); }
Dim3 block_index() { return Block::current()->index(); }
Dim3 block_dim() { return Block::current()->launch().block; }
Dim3 grid_dim() { return Block::current()->launch().grid; }
int lane() { return Block::current()->lane(); }

void sync_threads() {
  const Unwatched unwatched;
  Block& block = *Block::current();
  block.barrier(0, block.launch().block.count(), true, "__syncthreads", LRK_CALLER);
}

void barrier_sync(unsigned id, unsigned threads) {
  const Unwatched unwatched;
  Block::current()->barrier(id, threads, true, "bar.sync", LRK_CALLER);
}

void barrier_arrive(unsigned id, unsigned threads) {
  const Unwatched unwatched;
  Block::current()->barrier(id, threads, false, "bar.arrive", LRK_CALLER);
}

void warp_rendezvous(const char* operation, bool aligned, uint32_t mask, const void* input, void* output,
                     void (*work)(Warp& warp, const void* closure), const void* closure) {
  const Unwatched unwatched;
  Block::current()->warp_rendezvous(operation, aligned, mask, input, output, work, closure, LRK_CALLER);
}

void sync_warp(uint32_t mask) {
  const Unwatched unwatched;
  Block& block = *Block::current();
  block.warp_rendezvous(
      "__syncwarp", false, mask, nullptr, nullptr,
      [](Warp&, const void* lanes) {
        if (Checker* checker = Block::current()->checker()) checker->sync_warp(*static_cast<const uint32_t*>(lanes));
      },
      &mask, LRK_CALLER);
}

char* shared_base() { return Block::current()->shared(); }

const char* shared_for_read(uint32_t address, size_t bytes, size_t alignment, const char* operation, uint32_t lanes) {
  const Unwatched unwatched;
  return Block::current()->shared_access(address, bytes, alignment, false, operation, lanes, LRK_CALLER);
}

char* shared_for_write(uint32_t address, size_t bytes, size_t alignment, const char* operation, uint32_t lanes) {
  const Unwatched unwatched;
  return Block::current()->shared_access(address, bytes, alignment, true, operation, lanes, LRK_CALLER);
}

const char* global_for_read(const void* address, size_t bytes, size_t alignment, const char* operation,
                            uint32_t lanes) {
  const Unwatched unwatched;
  return static_cast<const char*>(
      Block::current()->global_access(address, bytes, alignment, false, operation, lanes, LRK_CALLER));
}

char* global_for_write(void* address, size_t bytes, size_t alignment, const char* operation, uint32_t lanes) {
  const Unwatched unwatched;
  Block::current()->global_access(address, bytes, alignment, true, operation, lanes, LRK_CALLER);
  return static_cast<char*>(address);
}

const char* global_for_constant_read(const void* address, size_t bytes, size_t alignment, const char* operation) {
  const Unwatched unwatched;
  Block& block = *Block::current();
  block.global_access(address, bytes, alignment, false, operation, kCallingLane, LRK_CALLER);
  if (Checker* checker = block.checker()) checker->constant_read(address, bytes, LRK_CALLER);
  return static_cast<const char*>(address);
}

void check_alignment(const void* address, size_t alignment, const char* operation) {
  if (reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
  const Unwatched unwatched;
  fault(std::string(operation) + ": a misaligned access, the address is not a multiple of " +
        std::to_string(alignment));
}

void async_copy(uint32_t destination, const void* source, int bytes, int source_bytes) {
  const Unwatched unwatched;
  Block::current()->async_copy(destination, source, bytes, source_bytes, LRK_CALLER);
}

void async_commit() { Block::current()->async_commit(); }

void async_wait(size_t pending_groups) {
  const Unwatched unwatched;
  Block::current()->async_wait(pending_groups);
}

void async_wait_all() {
  const Unwatched unwatched;
  Block::current()->async_wait_all();
}

void spin_wait() {
  const Unwatched unwatched;
  Block::current()->spin(LRK_CALLER);
}

void spin_done() { Block::current()->spin_done(); }

void grid_dependency_wait() {
  const Unwatched unwatched;
  if (Checker* checker = Block::current()->checker()) checker->wait_for_previous_launch();
}

/// The next launch may start earlier; here none ever does before this one has ended.
void grid_dependency_trigger() {
  const Unwatched unwatched;
  if (Checker* checker = Block::current()->checker()) checker->start_next_launch();
}

// --- Strong operations.

std::mutex& strong_operations() {
  static std::mutex mutex;
  return mutex;
}

namespace {

uint64_t load(const void* address, size_t bytes) {
  uint64_t value = 0;
  memcpy(&value, address, bytes);  // little-endian
  return value;
}

/// Bounds, alignment and races come first, because a fault does not come back to release the lock.
Checker* admit(const void* address, size_t bytes, bool write, const char* operation, const void* pc) {
  if (bytes > 8 || (bytes & (bytes - 1)) != 0 || reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fault(std::string(operation) + ": the address is misaligned: not a multiple of " + std::to_string(bytes));
  Checker* checker = Block::current()->checker();
  if (checker != nullptr) checker->strong_access(address, bytes, write, pc);
  return checker;
}

bool acquires(Order order) { return order == Order::kAcquire || order == Order::kAcquireRelease; }
bool releases(Order order) { return order == Order::kRelease || order == Order::kAcquireRelease; }

}  // namespace

uint64_t strong_load(const void* address, size_t bytes, Order order, Scope scope, const char* operation) {
  const Unwatched unwatched;
  Checker* checker = admit(address, bytes, false, operation, LRK_CALLER);
  const std::lock_guard<std::mutex> lock(strong_operations());
  if (checker != nullptr) checker->observe(address, acquires(order), scope);
  return load(address, bytes);
}

void strong_store(void* address, size_t bytes, uint64_t value, Order order, Scope scope, const char* operation) {
  const Unwatched unwatched;
  Checker* checker = admit(address, bytes, true, operation, LRK_CALLER);
  const std::lock_guard<std::mutex> lock(strong_operations());
  if (checker != nullptr) checker->publish(address, releases(order), scope, false);
  memcpy(address, &value, bytes);
  Block::current()->count_change();
}

uint64_t strong_update(void* address, size_t bytes, Order order, Scope scope, const char* operation,
                       uint64_t (*update)(uint64_t old, const void* closure), const void* closure) {
  const Unwatched unwatched;
  Checker* checker = admit(address, bytes, true, operation, LRK_CALLER);
  const std::lock_guard<std::mutex> lock(strong_operations());
  if (checker != nullptr) {
    checker->observe(address, acquires(order), scope);
    checker->publish(address, releases(order), scope, true);
  }
  const uint64_t old = load(address, bytes), value = update(old, closure);
  memcpy(address, &value, bytes);
  if (value != old) Block::current()->count_change();
  return old;
}

void fence(Scope scope) {
  const Unwatched unwatched;
  if (Checker* checker = Block::current()->checker()) checker->fence(scope);
}

}  // namespace lrk::emulator
