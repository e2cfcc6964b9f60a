// Which accesses of which threads come before what a thread does next ("happens before", Lamport 1978; per-thread
// vector clocks as in FastTrack, Flanagan and Freund, PLDI 2009). Nearly all order in a kernel comes from barriers of
// the whole block and of whole warps, so those are single numbers, and vectors exist only from the first named barrier,
// partial warp or flag until the next __syncthreads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "device/emulator/atomics.h"
#include "device/emulator/thread.h"

namespace lrk::emulator {

/// For threads of several blocks: the tick up to which what they did comes before. Blocks count from 1.
using Knowledge = std::map<uint32_t, std::vector<uint32_t>>;
constexpr uint32_t kPreviousLaunch = 0xffffffffu;  // as a block: thread 0 stands for all

void join(Knowledge& into, const Knowledge& from);

/// The clocks of one block. Every access bears the block's tick; a tick ends with each event that orders anything.
class Clocks {
 public:
  explicit Clocks(size_t threads)
      : warp_ticks_((threads + kWarpSize - 1) / kWarpSize), partial_(threads), fenced_(threads), observed_(threads) {}

  void begin_block(uint32_t block);
  uint32_t block() const { return block_; }
  uint32_t tick() const { return tick_; }
  uint32_t first_tick() const { return first_tick_; }  // of this block: what bears an earlier one was before it
  /// Accesses of this block up to this tick come before everything that any of its threads does now.
  uint32_t settled() const { return settled_; }

  /// The same for all that the threads of one warp do now.
  uint32_t settled_in_warp(size_t warp) const { return std::max(settled_, warp_ticks_[warp]); }
  /// Whether some thread of the block may know of accesses that are settled neither for the block nor in its warp.
  bool any_partial() const { return any_partial_; }

  /// The tick up to which accesses of `other` come before what `thread` does now.
  uint32_t known(size_t thread, size_t other) const {
    if (thread == other) return tick_;
    uint32_t tick = settled_;
    if (thread / kWarpSize == other / kWarpSize) tick = std::max(tick, warp_ticks_[thread / kWarpSize]);
    if (partial_[thread] && !partial_[thread]->row.empty()) tick = std::max(tick, partial_[thread]->row[other]);
    return tick;
  }
  /// The same for a thread of another block.
  uint32_t known_abroad(size_t thread, uint32_t block, size_t other) const;

  // --- Barriers. Those who take part know all that any of them knew.
  void sync_block();
  void sync(const std::vector<size_t>& threads, const Knowledge* arrived);
  void sync_warp(size_t warp, uint32_t mask);

  /// All that `thread` knows, itself included; ends the tick.
  Knowledge release(size_t thread);
  void acquire(size_t thread, const Knowledge& knowledge);

  // --- Fences, which turn relaxed operations before them into acquires and after them into releases.
  /// What is known at either scope.
  struct Scoped {
    Knowledge block, grid;
  };
  void fence(size_t thread, Scope scope);
  /// What a relaxed store of `thread` publishes: what it knew at its last fence.
  const Scoped& fenced(size_t thread) const { return fenced_[thread]; }
  /// A relaxed operation of `thread` has read what was published with this; its next fence acquires it.
  void observe(size_t thread, const Knowledge* block, const Knowledge& grid) {
    if (block != nullptr) join(observed_[thread].block, *block);
    join(observed_[thread].grid, grid);
  }

 private:
  struct Partial {
    std::vector<uint32_t> row;  // for each thread of the block, or empty
    Knowledge abroad;
  };
  void know(size_t thread, Partial& into) const;

  uint32_t block_ = 0, tick_ = 1, first_tick_ = 1, settled_ = 0;
  std::vector<uint32_t> warp_ticks_;
  std::vector<std::shared_ptr<const Partial>> partial_;
  bool any_partial_ = false;
  Knowledge abroad_;  // what every thread of the block knows
  std::vector<Scoped> fenced_, observed_;
};

}  // namespace lrk::emulator
