// A running CUDA block: its fibers, shared memory, barriers and warp rendezvous, and the turns it gives its threads.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "device/emulator/async_copies.h"
#include "device/emulator/fault.h"
#include "device/emulator/fiber.h"
#include "device/emulator/launch.h"
#include "device/emulator/memory.h"
#include "device/emulator/thread.h"

namespace lrk::emulator {

class Checker;
class GridChecker;

class Block {
 public:
  /// `grid_checker` is nullptr outside checked mode. `changes` counts what another block could be waiting for.
  Block(const Launch& launch, GridChecker* grid_checker, std::atomic<uint64_t>& changes);
  ~Block();

  void begin(Dim3 index);
  /// Gives every thread that can run one turn, until it waits. True: something has moved; false: as long as memory does
  /// not change, nothing will.
  bool give_turns();
  bool done() const { return finished_ == threads_.size() || failed_; }
  bool failed() const { return failed_; }
  const Fault& failure() const { return failure_; }
  void fail_with_deadlock();

  /// The block this operating-system thread is running.
  static Block*& current();

  // --- For the running thread; `pc` is where the kernel called.
  const Launch& launch() const { return launch_; }
  const Dim3& index() const { return index_; }
  const Dim3& thread_index() const { return threads_[running_].index; }
  size_t thread() const { return running_; }
  int lane() const { return int(running_ % kWarpSize); }
  char* shared() const { return shared_.data(); }
  size_t stack_bytes() const { return stacks_.area(running_).bytes; }
  /// In the inaccessible page that follows the end of the running thread's stack.
  bool is_below_stack(const char* address) const {
    return size_t(stacks_.area(running_).bottom - address) - 1 < page_bytes();
  }
  Checker* checker() const { return checker_.get(); }
  void count_change() { changes_.fetch_add(1, std::memory_order_relaxed); }

  void barrier(unsigned id, size_t count, bool wait, const char* operation, const void* pc);
  void warp_rendezvous(const char* operation, bool aligned, uint32_t mask, const void* input, void* output,
                       void (*work)(Warp&, const void*), const void* closure, const void* pc);
  void spin(const void* pc);
  void spin_done() {
    threads_[running_].left_a_spin = true;
    count_change();
  }
  char* shared_access(uint32_t address, size_t bytes, size_t alignment, bool write, const char* operation,
                      uint32_t lanes, const void* pc);
  const void* global_access(const void* address, size_t bytes, size_t alignment, bool write, const char* operation,
                            uint32_t lanes, const void* pc);
  void async_copy(uint32_t destination, const void* source, int bytes, int source_bytes, const void* pc);
  void async_commit() { threads_[running_].copies.commit(); }
  void async_wait(size_t pending_groups);
  void async_wait_all();

  /// With what is known of the running thread: who it is, and unless it is there a stack.
  Fault completed(Fault fault) const;
  /// Ends the running thread, and with it the block, which keeps the first fault. Nothing is unwound: the caller may be
  /// an instrumentation hook, which the compiler takes for a function that cannot throw.
  [[noreturn]] void fail(Fault fault);
  /// Ends the running thread, but lets the others run on as far as they can, so that late_cause() may tell why.
  [[noreturn]] void suspect(Fault fault);
  [[noreturn]] void late_cause(Fault::Place place);

 private:
  void async_copy_landed(const char* target, size_t bytes, bool source_changed);
  enum class State : uint8_t { kReady, kWaiting, kSpinning, kEnded, kFinished };
  struct Thread {
    Fiber fiber;
    Dim3 index;
    Block* block = nullptr;
    State state = State::kReady;
    const char* waiting_for = nullptr;
    const void* waiting_at = nullptr;
    int barrier = -1;  // the one it waits at
    bool left_a_spin = false;
    AsyncCopies copies;
  };
  struct WarpArrival {  // of those lanes of a warp that have come
    uint32_t lanes = 0;
    const char* operation = nullptr;
    const void* at = nullptr;  // where the first of them called
  };
  struct Barrier {
    size_t expected = 0, arrived = 0;
    std::vector<WarpArrival> of_warp;
    bool came(size_t thread) const { return (of_warp[thread / kWarpSize].lanes >> thread % kWarpSize & 1) != 0; }
  };
  static constexpr size_t kStackBytes = 64 << 10;

  [[noreturn]] void leave();
  void wait(State state, const char* operation, const void* pc);
  void release(size_t thread);
  void expect_whole_warps(const Barrier& barrier);
  void expect_same_place(const char* operation, const void* pc, const void* other_pc, size_t other);
  size_t find_missing(size_t waiting) const;
  const void* place_of(uint32_t lanes, const void* pc) const;
  static void thread_main(void* argument);
  void run_kernel();

  const Launch& launch_;
  std::atomic<uint64_t>& changes_;
  Dim3 index_;
  SharedMemory shared_;
  GuardedPages stacks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<uint32_t> lanes_waiting_;  // of each warp, in a warp-wide operation
  std::array<Barrier, 16> barriers_;
  Fiber scheduler_;
  size_t running_ = 0, finished_ = 0;
  bool failed_ = false;
  Fault failure_;
  bool suspects_ = false;  // failure_ is known, and the block runs on
  std::unique_ptr<Checker> checker_;
};

}  // namespace lrk::emulator
