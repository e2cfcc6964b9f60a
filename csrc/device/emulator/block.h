// A running CUDA block: its fibers, shared memory, barrier and warp rendezvous, and the scheduler that drives them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "device/emulator/async_copies.h"
#include "device/emulator/fiber.h"
#include "device/emulator/memory.h"

namespace lrk::emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr size_t count() const { return size_t(x) * y * z; }
};

/// What a kernel did that a GPU would not survive or not define; ends the block and becomes the launch's status.
struct Fault {
  std::string message;
};

[[noreturn]] inline void fault(std::string message) { throw Fault{std::move(message)}; }

constexpr int kWarpSize = 32;

/// One lane's part in a warp-wide operation.
struct LaneSlot {
  const void* input = nullptr;
  void* output = nullptr;
  const char* operation = nullptr;
  uint32_t mask = 0;
  bool waiting = false;
};

struct Warp {
  LaneSlot lane[kWarpSize];

  template <class T>
  const T& input(int index) const { return *static_cast<const T*>(lane[index].input); }
  template <class T>
  T& output(int index) const { return *static_cast<T*>(lane[index].output); }
};

class Block {
 public:
  /// `body` runs the kernel once; it is called by every thread.
  using Body = void (*)(const void* closure);

  Block(Dim3 grid, Dim3 block, size_t shared_bytes, Body body, const void* closure)
      : grid_(grid), block_(block), shared_(shared_bytes), stacks_(block.count(), kStackBytes), body_(body),
        closure_(closure), threads_(block.count()), warps_((block.count() + kWarpSize - 1) / kWarpSize) {
    for (size_t i = 0; i < threads_.size(); ++i) {
      threads_[i].index = Dim3(unsigned(i % block.x), unsigned(i / block.x % block.y), unsigned(i / block.x / block.y));
      threads_[i].block = this;
    }
  }

  /// Runs block `index` to its end. Returns an empty string, or what went wrong.
  std::string run(Dim3 index) {
    index_ = index, arrived_ = 0, finished_ = 0, failure_.clear();
    shared_.poison();
    for (size_t i = 0; i < threads_.size(); ++i) {
      threads_[i].state = State::kReady;
      threads_[i].copies.clear();
      threads_[i].fiber.prepare(stacks_.area(i), &Block::thread_main, &threads_[i]);
      threads_[i].fiber.set_origin(&scheduler_);
    }
    for (Warp& warp : warps_) warp = Warp{};
    current() = this;
    schedule();
    current() = nullptr;
    if (failure_.empty() && !shared_.tail_is_intact()) failure_ = "a write past the end of shared memory";
    if (failure_.empty()) return {};
    return "block (" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
           "): " + failure_;
  }

  /// The block this operating-system thread is running.
  static Block*& current() {
    static constinit thread_local Block* block = nullptr;
    return block;
  }

  const Dim3& grid() const { return grid_; }
  const Dim3& dim() const { return block_; }
  const Dim3& index() const { return index_; }
  const Dim3& thread_index() const { return threads_[running_].index; }
  int lane() const { return int(running_ % kWarpSize); }
  AsyncCopies& copies() { return threads_[running_].copies; }
  SharedMemory& shared() { return shared_; }

  /// __syncthreads: every thread of the block must come, also those that have nothing left to do.
  void sync_threads() {
    if (++arrived_ < threads_.size()) return wait(kBarrierName);
    arrived_ = 0;
    for (Thread& thread : threads_)
      if (thread.state == State::kWaiting && thread.waiting_for == kBarrierName) thread.state = State::kReady;
  }

  /// The lanes of `mask` meet; the last to come runs work(warp) for all of them, reading inputs and writing outputs.
  template <class Work>
  void warp_collective(const char* operation, uint32_t mask, const void* input, void* output, Work&& work) {
    Warp& warp = warps_[running_ / kWarpSize];
    const int self = lane();
    if ((mask >> self & 1) == 0) fault(std::string(operation) + ": the calling lane is not in its own mask");
    warp.lane[self] = {input, output, operation, mask, true};
    for (int i = 0; i < kWarpSize; ++i) {
      if ((mask >> i & 1) == 0) continue;
      const LaneSlot& slot = warp.lane[i];
      if (!slot.waiting) return wait(operation);
      if (std::string_view(slot.operation) != operation || slot.mask != mask)
        fault(std::string("lanes of one warp met in different operations: ") + operation + " and " + slot.operation);
    }
    work(warp);
    const size_t first = running_ / kWarpSize * kWarpSize;
    for (int i = 0; i < kWarpSize; ++i) {
      if ((mask >> i & 1) == 0) continue;
      warp.lane[i].waiting = false;
      threads_[first + size_t(i)].state = State::kReady;
    }
  }

  /// A checked pointer to `bytes` at a 32-bit shared address.
  char* shared_pointer(uint32_t address, size_t bytes, size_t alignment, const char* operation) {
    if (size_t(address) + bytes > shared_.bytes())
      fault(std::string(operation) + ": shared address " + std::to_string(address) + " + " + std::to_string(bytes) +
            " bytes is past the end (" + std::to_string(shared_.bytes()) + ")");
    if (address % alignment != 0)
      fault(std::string(operation) + ": shared address " + std::to_string(address) + " is not a multiple of " +
            std::to_string(alignment));
    return shared_.data() + address;
  }

 private:
  enum class State : uint8_t { kReady, kWaiting, kFinished };
  struct Thread {
    Fiber fiber;
    Dim3 index;
    Block* block = nullptr;
    State state = State::kReady;
    const char* waiting_for = nullptr;
    AsyncCopies copies;
  };
  static constexpr size_t kStackBytes = 64 << 10;
  static constexpr const char* kBarrierName = "__syncthreads";

  void wait(const char* operation) {
    Thread& thread = threads_[running_];
    thread.waiting_for = operation, thread.state = State::kWaiting;
    Fiber::switch_to(thread.fiber, scheduler_);
  }

  static void thread_main(void* argument) {
    auto& thread = *static_cast<Thread*>(argument);
    thread.fiber.arrived();
    Block& block = *thread.block;
    try {
      block.body_(block.closure_);
    } catch (const Fault& caught) {
      if (block.failure_.empty())
        block.failure_ = "thread " + std::to_string(&thread - block.threads_.data()) + ": " + caught.message;
    }
    thread.state = State::kFinished;
    ++block.finished_;
    Fiber::switch_to(thread.fiber, block.scheduler_);
  }

  /// Runs ready threads, each until it waits, in thread order, until all have finished or one has failed.
  void schedule() {
    while (finished_ < threads_.size() && failure_.empty()) {
      bool progress = false;
      for (running_ = 0; running_ < threads_.size() && failure_.empty(); ++running_) {
        if (threads_[running_].state != State::kReady) continue;
        progress = true;
        Fiber::switch_to(scheduler_, threads_[running_].fiber);
      }
      if (!progress && failure_.empty()) failure_ = describe_deadlock();
    }
  }

  std::string describe_deadlock() const {
    for (size_t i = 0; i < threads_.size(); ++i)
      if (threads_[i].state == State::kWaiting)
        return "deadlock: thread " + std::to_string(i) + " waits in " + threads_[i].waiting_for + ", " +
               std::to_string(finished_) + " of " + std::to_string(threads_.size()) + " threads have exited";
    return "deadlock";
  }

  Dim3 grid_, block_, index_;
  SharedMemory shared_;
  GuardedPages stacks_;
  Body body_;
  const void* closure_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Fiber scheduler_;
  size_t running_ = 0, arrived_ = 0, finished_ = 0;
  std::string failure_;
};

}  // namespace lrk::emulator
