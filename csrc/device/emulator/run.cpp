// Runs a grid: independent blocks spread over operating-system threads, each block on one of them; the blocks of a
// cooperative launch alive at once and taking turns on one.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "device/emulator/block.h"
#include "device/emulator/checker.h"
#include "device/emulator/crash.h"
#include "device/emulator/launch.h"
#include "device/emulator/launch_count.h"
#include "device/emulator/symbols.h"

namespace lrk::emulator {

namespace {

#if defined(LRK_EMULATOR_CHECKED)
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

/// How many blocks of a launch are alive at once on the emulated device.
size_t resident_blocks(const Launch& launch) {
  const size_t by_threads = kThreadsPerMultiprocessor / launch.block.count();
  const size_t by_shared = kSharedBytesPerMultiprocessor / (launch.shared_bytes + kReservedSharedBytes);
  return kMultiprocessors * std::min({by_threads, by_shared, kBlocksPerMultiprocessor});
}

/// Why the launch cannot be, and whose rule that is: any GPU's, that of the emulated device (a real one may be larger),
/// or the emulator's alone. Empty when it can.
std::string refusal(const Launch& launch) {
  const size_t blocks = launch.grid.count(), threads = launch.block.count();
  const Dim3 &grid = launch.grid, &block = launch.block;
  const std::string these = std::to_string(threads) + " threads a block " + triple(block);
  const std::string any_gpu = " (a rule of every GPU)", emulated = " (a limit of the emulated device, an sm_80 with " +
                                                                   std::to_string(kMultiprocessors) +
                                                                   " multiprocessors)";
  if (blocks == 0) return "no blocks, the grid is " + triple(grid) + any_gpu;
  if (threads == 0) return "no threads, the block is " + triple(block) + any_gpu;
  if (threads > kMaxThreads) return these + ", at most " + std::to_string(kMaxThreads) + any_gpu;
  if (block.z > kMaxThreadsAlongZ)
    return these + ", at most " + std::to_string(kMaxThreadsAlongZ) + " along z" + any_gpu;
  if (threads % kWarpSize != 0)
    return these + ", not a multiple of 32 (a rule of the emulator, which knows whole warps only; a GPU would run it)";
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return "the grid is " + triple(grid) + ", at most (2147483647, 65535, 65535)" + any_gpu;
  if (launch.shared_bytes > kMaxSharedBytes)
    return std::to_string(launch.shared_bytes) + " bytes of shared memory a block, at most " +
           std::to_string(kMaxSharedBytes) + emulated;
  if (launch.cooperative && blocks > resident_blocks(launch))
    return std::to_string(blocks) + " cooperative blocks of " + std::to_string(threads) + " threads and " +
           std::to_string(launch.shared_bytes) + " bytes of shared memory, of which " +
           std::to_string(resident_blocks(launch)) + " fit the device at once" + emulated;
  return {};
}

Dim3 index_of(const Launch& launch, size_t block) {
  const Dim3& grid = launch.grid;
  return Dim3(unsigned(block % grid.x), unsigned(block / grid.x % grid.y), unsigned(block / grid.x / grid.y));
}

/// LRK_EMULATOR_THREADS=1 makes the order of blocks repeatable and a debugger's life simple.
size_t available_workers() {
  if (const char* wanted = std::getenv("LRK_EMULATOR_THREADS")) return size_t(std::max(1, atoi(wanted)));
  constexpr unsigned kMostWorkers = 16;  // every one has a guard page a thread of its block
  return std::clamp(std::thread::hardware_concurrency(), 1u, kMostWorkers);
}

/// Operating-system threads that run blocks one after another. A block may wait for another, and then its worker waits
/// as long as some worker can still move.
class Workers {
 public:
  Workers(const Launch& launch, GridChecker* checker) : launch_(launch), checker_(checker) {}

  /// Returns an empty string, or the first fault.
  std::string run() {
    running_ = std::min(launch_.grid.count(), available_workers());
    std::vector<std::thread> helpers;
    for (size_t i = 1, count = running_; i < count; ++i) {
      try {
        helpers.emplace_back([this] {
          const SignalStack signal_stack;
          work();
        });
      } catch (const std::system_error&) {  // no more threads to have: fewer do the same
        const std::lock_guard<std::mutex> lock(mutex_);
        running_ -= count - i;
        break;
      }
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    return failure_;
  }

 private:
  void work() {
    try {
      run_blocks();
    } catch (const std::bad_alloc&) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (failure_.empty()) failure_ = "no memory for the fibers of another block";
      next_ = launch_.grid.count();
      stop_ = true;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    --running_;
  }

  void run_blocks() {
    Block block(launch_, checker_, changes_);
    for (size_t i; (i = next_++) < launch_.grid.count();) {
      block.begin(index_of(launch_, i));
      while (!block.done()) {
        const uint64_t seen = changes_;
        if (!block.give_turns() && !block.done() && !wait_for_change(seen)) block.fail_with_deadlock();
      }
      if (!block.failed()) continue;
      const std::string message = describe(launch_.kernel, block.failure());
      const std::lock_guard<std::mutex> lock(mutex_);
      if (failure_.empty()) failure_ = message;
      next_ = launch_.grid.count();
      stop_ = true;
    }
  }

  /// Waits until changes_ differs from `seen`. False when it never will, because every worker waits here, or when
  /// another block has failed.
  bool wait_for_change(uint64_t seen) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (changes_ != seen) return true;
      if (stuck_at_ != seen) stuck_ = 0, stuck_at_ = seen;
      ++stuck_;
    }
    for (;;) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (changes_ != seen) return true;
        if (stop_ || stuck_ >= running_) return false;
      }
      std::this_thread::yield();
    }
  }

  const Launch& launch_;
  GridChecker* checker_;
  std::atomic<size_t> next_{0};
  std::atomic<uint64_t> changes_{0};
  std::mutex mutex_;  // guards what follows
  size_t running_ = 0, stuck_ = 0;
  uint64_t stuck_at_ = ~uint64_t(0);
  bool stop_ = false;
  std::string failure_;
};

std::string run_together(const Launch& launch, GridChecker* checker) {
  std::atomic<uint64_t> changes{0};
  std::vector<std::unique_ptr<Block>> blocks;
  for (size_t i = 0; i < launch.grid.count(); ++i) {
    blocks.push_back(std::make_unique<Block>(launch, checker, changes));
    blocks.back()->begin(index_of(launch, i));
  }
  for (;;) {
    const uint64_t seen = changes;
    Block* unfinished = nullptr;
    bool moved = false;
    for (const auto& block : blocks) {
      if (block->done()) continue;
      moved = block->give_turns() || moved;
      if (block->failed()) return describe(launch.kernel, block->failure());
      if (!block->done() && unfinished == nullptr) unfinished = block.get();
    }
    if (unfinished == nullptr) return {};
    if (moved || changes != seen) continue;
    unfinished->fail_with_deadlock();
    return describe(launch.kernel, unfinished->failure());
  }
}

thread_local int64_t launches_of_this_thread = 0;

/// What a programmatic launch on a stream may overlap.
[[maybe_unused]] UnfinishedLaunches& unfinished_launches(const void* stream) {
  static thread_local std::map<const void*, UnfinishedLaunches> of_stream;
  return of_stream[stream];
}

}  // namespace

int64_t launch_count() { return launches_of_this_thread; }

std::string run(const Launch& launch) {
  const Unwatched unwatched;
  ++launches_of_this_thread;
  if (const std::string reason = refusal(launch); !reason.empty())
    return "kernel " + function_name(launch.kernel) + ": invalid launch: " + reason;
  std::shared_ptr<GridChecker> checker;
  if constexpr (kChecked) {
    UnfinishedLaunches unfinished = std::exchange(unfinished_launches(launch.stream), {});
    if (!launch.programmatic) unfinished = {};  // it starts when all before it have ended
    checker = std::make_shared<GridChecker>(launch, std::move(unfinished));
  }
  const CrashReports crash_reports;
  const SignalStack signal_stack;
  std::string failure =
      launch.cooperative ? run_together(launch, checker.get()) : Workers(launch, checker.get()).run();
  if constexpr (kChecked) unfinished_launches(launch.stream) = GridChecker::unfinished_after(checker);
  return failure;
}

}  // namespace lrk::emulator
