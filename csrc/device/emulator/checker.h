// The checked mode: looks at every memory access of a kernel, made by itself (instrumentation hooks) or declared by a
// wrapper, and ends the launch at the first that is out of bounds, misaligned, reads what nobody wrote or what is still
// being copied, or races with another thread's.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "device/emulator/clocks.h"
#include "device/emulator/fault.h"
#include "device/emulator/fiber.h"
#include "device/emulator/launch.h"
#include "device/emulator/shadow.h"
#include "device/emulator/watch.h"

namespace lrk::emulator {

/// What strong operations on one address have published.
struct SyncObject {
  std::map<uint32_t, Knowledge> block;  // to the publisher's own block
  Knowledge grid;                       // to all
};
using SyncObjects = std::unordered_map<uintptr_t, SyncObject>;

class GridChecker;

/// The launches of a stream that a programmatic launch finds unfinished: until its griddepcontrol.wait, and after it.
/// The wait is for the launch right before, and that one ends without its own predecessor unless it has waited, too.
struct UnfinishedLaunches {
  std::vector<std::shared_ptr<GridChecker>> at_start, after_wait;
};

/// What the blocks of a launch share: the spans of global memory, their shadow, and flags between blocks.
class GridChecker {
 public:
  GridChecker(const Launch& launch, UnfinishedLaunches unfinished);

  struct Span : MemorySpan {
    Shadow* shadow = nullptr;      // nullptr: kernel parameters, which are constant
    const char* shadow_begin = nullptr;
    bool shadow_writable = false;  // some span there is
    bool contains(const char* address, size_t bytes) const;
  };
  /// The span that allows the access, or nullptr.
  const Span* find(const char* address, size_t bytes, bool write) const;
  /// "bytes [a, b) of NAME"
  static std::string place(const Span& span, const char* address, size_t bytes);
  /// Why find() answered nullptr.
  std::string refusal(const char* address, size_t bytes, bool write) const;

  struct Touch {
    bool touched = false, written = false;
    uint16_t thread = 0;
    const void* pc = nullptr;
  };
  /// What this launch did to some bytes that makes reading (writing) them conflict with it.
  Touch conflict_with(const char* address, size_t bytes, bool write) const;

  bool may_overlap() const { return !unfinished_.at_start.empty(); }
  const std::vector<std::shared_ptr<GridChecker>>& unfinished(bool after_wait) const {
    return after_wait ? unfinished_.after_wait : unfinished_.at_start;
  }
  /// Why a thread must not touch what `other` does: "before griddepcontrol.wait: kernel K, the launch before ..."
  std::string may_still_run(const GridChecker& other, bool after_wait) const;
  /// A block has waited; it let the next launch start by griddepcontrol.launch_dependents before it had, or not.
  void block_has_waited(bool started_next_before) {
    has_waited_ = true;
    if (!started_next_before) waited_before_next_ = true;
  }
  /// Once `ended` has run: what a programmatic launch after it finds. `ended` forgets its own predecessors.
  static UnfinishedLaunches unfinished_after(const std::shared_ptr<GridChecker>& ended);
  SyncObjects& objects() { return objects_; }
  Dim3 block_index(uint32_t block) const;

 private:
  struct Region {
    const char *begin, *end;
    bool writable;
    std::unique_ptr<Shadow> shadow;
  };
  const void* kernel_;
  Dim3 grid_;
  UnfinishedLaunches unfinished_;
  std::atomic<bool> has_waited_{false};          // in some block, which is enough: the predecessor has ended then
  std::atomic<bool> waited_before_next_{false};  // so that it has ended before the next launch starts
  std::vector<Region> regions_;
  std::vector<Span> spans_;
  SyncObjects objects_;  // guarded by the lock of all strong operations
};

/// One block's view.
class Checker {
 public:
  Checker(GridChecker& grid, size_t threads, const char* shared, size_t shared_bytes);

  void begin_block(uint32_t block);
  void end_block();
  void enter_thread(size_t thread, StackSpan stack) {
    thread_ = thread, stack_ = stack.bottom, stack_bytes_ = stack.bytes;
  }

  /// A plain access of the running thread. `alignment` 1: none is asked for.
  void access(const void* address, size_t bytes, bool write, const void* pc, size_t alignment = 1) {
    if (size_t(static_cast<const char*>(address) - stack_) < stack_bytes_) return;
    access_elsewhere(static_cast<const char*>(address), bytes, write, Strength::kWeak, own_lane(), pc, alignment);
  }
  /// A plain access by lanes of the running thread's warp.
  void access_by_lanes(const void* address, size_t bytes, bool write, uint32_t lanes, const void* pc) {
    access_elsewhere(static_cast<const char*>(address), bytes, write, Strength::kWeak, lanes, pc, 1);
  }
  /// A read by ld.global.nc, of what nobody writes as long as the kernel runs.
  void constant_read(const void* address, size_t bytes, const void* pc) {
    access_elsewhere(static_cast<const char*>(address), bytes, false, Strength::kConstant, own_lane(), pc, 1);
  }

  // --- Strong operations: the access, and what the order of the operation means, under the caller's lock.
  void strong_access(const void* address, size_t bytes, bool write, const void* pc) {
    if (size_t(static_cast<const char*>(address) - stack_) < stack_bytes_) return;
    access_elsewhere(static_cast<const char*>(address), bytes, write, Strength::kStrong, own_lane(), pc, bytes);
  }
  void observe(const void* address, bool acquire, Scope scope);
  void publish(const void* address, bool release, Scope scope, bool update);
  void fence(Scope scope) { clocks_.fence(thread_, scope); }

  // --- cp.async into shared memory, from issue to landing.
  void begin_copy(const char* target, size_t bytes, const void* pc);
  void end_copy(const char* target, size_t bytes);

  // --- Barriers.
  void arrive(unsigned barrier) { join(arrived_[barrier], clocks_.release(thread_)); }
  void complete(unsigned barrier, const std::vector<size_t>& waited);
  void sync_warp(uint32_t mask) { clocks_.sync_warp(thread_ / kWarpSize, mask); }

  // --- The launches before and after this one.
  void wait_for_previous_launch() {
    clocks_.acquire(thread_, {{kPreviousLaunch, {1}}});
    waited_ = true;
  }
  void start_next_launch() { started_next_before_wait_ = started_next_before_wait_ || !has_waited(); }

 private:
  enum class Kind : uint8_t { kNone, kUnwritten, kInFlight, kAfterWrite, kAfterRead, kConstantWritten, kConstantRead };
  enum class Strength : uint8_t { kWeak, kStrong, kConstant };
  struct Conflict {
    Kind kind = Kind::kNone;
    size_t offset = 0, bytes = 0;
    uint32_t block = 0;
    size_t thread = 0;
    const void* pc = nullptr;
  };
  /// In records of shared memory, which one block after another uses: ticks tell them apart.
  static constexpr uint32_t kOwnBlock = 0;
  struct Access {
    bool write;
    Strength strength;
    uint32_t block;
    size_t warp;
    uint32_t lanes;
    const void* pc;
    bool strong() const { return strength == Strength::kStrong; }
  };

  uint32_t own_lane() const { return 1u << (thread_ % kWarpSize); }
  void access_elsewhere(const char* address, size_t bytes, bool write, Strength strength, uint32_t lanes,
                        const void* pc, size_t alignment);
  void shared_access(const char* address, size_t bytes, const Access& access);
  void global_access(const char* address, size_t bytes, const Access& access);
  bool in_program_constants(const char* address) const;

  /// Whether what `thread` of `block` did at `tick` comes before what `lanes` of `warp` do now.
  bool ordered(uint32_t block, size_t thread, uint32_t tick, size_t warp, uint32_t lanes) const {
    const bool own = block == kOwnBlock || block == clocks_.block();
    return (own && tick <= clocks_.settled()) || ordered_since_barrier(own, block, thread, tick, warp, lanes);
  }
  bool ordered_since_barrier(bool own, uint32_t block, size_t thread, uint32_t tick, size_t warp, uint32_t lanes) const;
  bool has_waited() const { return clocks_.known_abroad(thread_, kPreviousLaunch, 0) != 0; }
  /// Whether `access` comes after the last write; if not, why.
  bool read_cell(const Cell& cell, const Access& access, Conflict& conflict) const {
    const bool settled = cell.write_block == kOwnBlock && cell.write_tick <= clocks_.settled();
    return (settled && (cell.flags & Cell::kInFlight) == 0 && access.strength != Strength::kConstant) ||
           read_unsettled_cell(cell, access, conflict);
  }
  bool read_unsettled_cell(const Cell& cell, const Access& access, Conflict& conflict) const;
  bool write_cell(Shadow& shadow, Cell& cell, const Access& access, Conflict& conflict);
  void note_read(Cell& cell, ReadRecord& record, const Access& access) const;
  void remember_read(Shadow& shadow, Cell& cell, const Access& access);
  void search_unfinished_launches(const GridChecker::Span& span, const char* address, size_t bytes,
                                  const Access& access);
  void look_for_late_writer(size_t offset, size_t bytes, const Access& access);
  [[noreturn]] void report(const Conflict& conflict, const Access& access, const std::string& place);
  [[noreturn]] void report(std::string what, const Access& access, std::vector<Fault::Place> related = {});
  Fault fault_of(std::string what, const Access& access) const;
  std::string name_of(uint32_t block, size_t thread) const;

  GridChecker& grid_;
  const char* shared_;
  size_t shared_bytes_;
  Clocks clocks_;
  Shadow shadow_;  // of shared memory
  SyncObjects objects_;
  std::vector<Knowledge> arrived_;
  size_t threads_, thread_ = 0;
  bool waited_ = false, started_next_before_wait_ = false;  // in this block
  size_t unwritten_offset_ = 0, unwritten_bytes_ = 0;  // shared bytes that a thread has read before anybody wrote them
  const char* stack_ = nullptr;
  size_t stack_bytes_ = 0;
};

}  // namespace lrk::emulator
