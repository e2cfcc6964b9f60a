#include "device/emulator/block.h"

#include <cstdio>
#include <string_view>

#include "device/emulator/checker.h"

namespace lrk::emulator {

namespace {

std::string number(size_t value) { return std::to_string(value); }

/// "lanes 0xffff0000 of warp 2"
std::string lanes_of(size_t warp, uint32_t lanes) {
  char text[32];
  snprintf(text, sizeof(text), "lanes 0x%08x", unsigned(lanes));
  return text + std::string(" of warp ") + number(warp);
}

}  // namespace

Block::Block(const Launch& launch, GridChecker* grid_checker, std::atomic<uint64_t>& changes)
    : launch_(launch), changes_(changes), shared_(launch.shared_bytes), stacks_(launch.block.count(), kStackBytes),
      threads_(launch.block.count()), warps_(launch.block.count() / kWarpSize),
      lanes_waiting_(warps_.size()) {
  const Dim3& dim = launch.block;
  for (size_t i = 0; i < threads_.size(); ++i) {
    threads_[i].index = Dim3(unsigned(i % dim.x), unsigned(i / dim.x % dim.y), unsigned(i / dim.x / dim.y));
    threads_[i].block = this;
  }
  if (grid_checker != nullptr)
    checker_ = std::make_unique<Checker>(*grid_checker, threads_.size(), shared_.data(), launch.shared_bytes);
}

Block::~Block() = default;

Block*& Block::current() {
  static constinit thread_local Block* block = nullptr;
  return block;
}

void Block::begin(Dim3 index) {
  index_ = index, finished_ = 0, failed_ = suspects_ = false, failure_ = Fault{};
  shared_.poison();
  for (size_t i = 0; i < threads_.size(); ++i) {
    Thread& thread = threads_[i];
    thread.state = State::kReady, thread.barrier = -1;
    thread.copies.clear();
    thread.fiber.prepare(stacks_.area(i), &Block::thread_main, &thread);
    thread.fiber.set_origin(&scheduler_);
  }
  for (Warp& warp : warps_) warp = Warp{};
  for (uint32_t& lanes : lanes_waiting_) lanes = 0;
  for (Barrier& barrier : barriers_) {
    barrier.expected = barrier.arrived = 0;
    barrier.of_warp.assign(warps_.size(), WarpArrival{});
  }
  if (checker_) {
    const size_t linear = (size_t(index.z) * launch_.grid.y + index.y) * launch_.grid.x + index.x;
    checker_->begin_block(uint32_t(linear + 1));
  }
}

bool Block::give_turns() {
  bool moved = false;
  current() = this;
  for (running_ = 0; running_ < threads_.size() && !failed_; ++running_) {
    Thread& thread = threads_[running_];
    const bool spinning = thread.state == State::kSpinning;
    if (thread.state != State::kReady && !spinning) continue;
    if (checker_) checker_->enter_thread(running_, stacks_.area(running_));
    thread.left_a_spin = false;
    Fiber::switch_to(scheduler_, thread.fiber);
    moved = moved || !spinning || thread.state != State::kSpinning || thread.left_a_spin;
  }
  current() = nullptr;
  if (suspects_ && !moved) failed_ = true;
  if (finished_ == threads_.size() && !failed_) {
    if (checker_) checker_->end_block();
    if (!shared_.tail_is_intact()) {
      failed_ = true;
      failure_.what = "a write past the end of shared memory", failure_.block = index_;
    }
  }
  return moved;
}

void Block::thread_main(void* argument) {
  auto& thread = *static_cast<Thread*>(argument);
  thread.fiber.arrived();
  Block& block = *thread.block;
  block.run_kernel();
  thread.state = State::kFinished;
  ++block.finished_;
  block.count_change();
  Fiber::switch_to(thread.fiber, block.scheduler_);
}

void Block::run_kernel() {
  // Kernels do not throw, but what they call in the emulator may run out of memory.
  Fault fault;
  try {
    const Watch watch(checker_.get());
    launch_.body(launch_.closure);
    return;
  } catch (const std::exception& error) {
    fault.what = error.what();
  }
  fail(std::move(fault));  // does not return, and so must not keep the exception
}

Fault Block::completed(Fault fault) const {
  if (!fault.has_thread) {
    fault.thread = fault.lane < 0 ? running_ : running_ / kWarpSize * kWarpSize + size_t(fault.lane);
    fault.has_thread = true;
  }
  fault.block = index_, fault.thread_index = threads_[fault.thread].index;
  if (fault.stack.empty()) fault.stack = call_stack();
  return fault;
}

void Block::leave() {
  watching = nullptr;
  Fiber::switch_to(threads_[running_].fiber, scheduler_);
  std::terminate();  // the scheduler does not come back to an ended thread
}

void Block::fail(Fault fault) {
  if (!failed_ && !suspects_) failure_ = completed(std::move(fault));
  failed_ = true;
  fault = Fault{};
  leave();
}

void Block::suspect(Fault fault) {
  if (!suspects_) failure_ = completed(std::move(fault));
  suspects_ = true;
  fault = Fault{};
  threads_[running_].state = State::kEnded;
  leave();
}

void Block::late_cause(Fault::Place place) {
  failure_.related.push_back(std::move(place));
  failed_ = true;
  place = Fault::Place{};
  leave();
}

void Block::wait(State state, const char* operation, const void* pc) {
  Thread& thread = threads_[running_];
  thread.waiting_for = operation, thread.waiting_at = pc, thread.state = state;
  Fiber::switch_to(thread.fiber, scheduler_);
}

void Block::release(size_t thread) { threads_[thread].state = State::kReady, threads_[thread].barrier = -1; }

// --- Barriers.

void Block::barrier(unsigned id, size_t count, bool wait_too, const char* operation, const void* pc) {
  if (id >= barriers_.size()) fault(std::string(operation) + ": there is no barrier " + number(id));
  if (count == 0 || count % kWarpSize != 0 || count > threads_.size())
    fault(std::string(operation) + ": " + number(count) +
          " threads, expected a multiple of 32 that the block has");
  Barrier& barrier = barriers_[id];
  if (barrier.arrived == 0) barrier.expected = count;
  if (barrier.expected != count)
    fault(std::string(operation) + ": " + number(count) + " threads at barrier " + number(id) +
          ", where others said " + number(barrier.expected));
  if (barrier.came(running_))
    fault(std::string(operation) + ": this thread comes twice to one phase of barrier " + number(id));
  WarpArrival& warp = barrier.of_warp[running_ / kWarpSize];
  if (warp.lanes == 0) {
    warp.operation = operation, warp.at = pc;
  } else {
    const size_t other = running_ / kWarpSize * kWarpSize + size_t(__builtin_ctz(warp.lanes));
    if (std::string_view(warp.operation) != operation)
      fault(std::string("lanes of one warp come to barrier ") + number(id) + " by different instructions: " +
            operation + " and " + warp.operation);
    expect_same_place(operation, pc, warp.at, other);
  }
  warp.lanes |= 1u << lane();
  if (!wait_too && checker_) checker_->arrive(id);
  if (++barrier.arrived < barrier.expected) {
    if (!wait_too) return;
    threads_[running_].barrier = int(id);
    return wait(State::kWaiting, operation, pc);
  }
  expect_whole_warps(barrier);
  std::vector<size_t> waited;
  if (wait_too) waited.push_back(running_);
  for (size_t i = 0; i < threads_.size(); ++i)
    if (threads_[i].barrier == int(id)) waited.push_back(i), release(i);
  if (checker_) checker_->complete(id, waited);
  barrier.arrived = 0;
  for (WarpArrival& arrival : barrier.of_warp) arrival.lanes = 0;
}

/// A GPU counts a warp that comes as 32 threads, whatever lanes are active: halves of two warps would pass for both.
void Block::expect_whole_warps(const Barrier& barrier) {
  for (size_t warp = 0; warp < barrier.of_warp.size(); ++warp) {
    const WarpArrival& arrival = barrier.of_warp[warp];
    if (arrival.lanes == 0 || arrival.lanes == kAllLanes) continue;
    const size_t missing = warp * kWarpSize + size_t(__builtin_ctz(~arrival.lanes));
    Fault fault;
    fault.what = std::string(arrival.operation) + " is .aligned, whole warps take it: here only " +
                 lanes_of(warp, arrival.lanes) + " came";
    fault.has_thread = true, fault.thread = warp * kWarpSize + size_t(__builtin_ctz(arrival.lanes));
    fault.stack = {arrival.at};
    const Thread& other = threads_[missing];
    const bool waits = other.state == State::kWaiting || other.state == State::kSpinning;
    fault.related.push_back({"thread " + number(missing) + " is missing" +
                                 (other.state == State::kFinished ? std::string(": it has exited")
                                  : waits                         ? std::string(": it waits in ") + other.waiting_for
                                                                  : std::string()),
                             waits ? other.waiting_at : nullptr});
    fail(std::move(fault));
  }
}

/// `other_pc`: where thread `other` of the same warp called. Compilers copy code, so addresses say nothing by
/// themselves; lines are known in checked mode.
void Block::expect_same_place(const char* operation, const void* pc, const void* other_pc, size_t other) {
  if (!checker_ || pc == other_pc || same_place(pc, other_pc)) return;
  Fault fault;
  fault.what = std::string(operation) + " is .aligned, a warp takes it in one place: the lanes of warp " +
               number(running_ / kWarpSize) + " come from two";
  fault.related.push_back({"thread " + number(other) + " came", other_pc});
  fail(std::move(fault));
}

// --- Warps.

void Block::warp_rendezvous(const char* operation, bool aligned, uint32_t mask, const void* input, void* output,
                            void (*work)(Warp&, const void*), const void* closure, const void* pc) {
  const size_t index = running_ / kWarpSize, first = index * kWarpSize;
  Warp& warp = warps_[index];
  uint32_t& waiting = lanes_waiting_[index];
  const int self = lane();
  if ((mask >> self & 1) == 0) fault(std::string(operation) + ": the calling lane is not in its own mask");
  const auto same = [&](const LaneSlot& slot) {
    return slot.mask == mask && slot.work == work &&
           (slot.operation == operation || std::string_view(slot.operation) == operation);
  };
  // Lanes that wait with masks of their own may yet come here; one that waits for this lane elsewhere never will.
  for (uint32_t met = waiting & mask; met != 0; met &= met - 1) {
    const LaneSlot& slot = warp.lane[__builtin_ctz(met)];
    if (same(slot)) {
      if (aligned) expect_same_place(operation, pc, slot.called_at, first + size_t(__builtin_ctz(met)));
      break;
    }
    if ((slot.mask >> self & 1) == 0) continue;
    Fault fault;
    fault.what = std::string("lanes of one warp met in different operations: ") + operation + " and " +
                 slot.operation;
    if (slot.mask != mask)
      fault.what += ", with different masks";
    else if (std::string_view(slot.operation) == operation)
      fault.what += " of another type or size";
    const size_t other = first + size_t(__builtin_ctz(met));
    fault.related.push_back({"thread " + number(other) + " waits in " + slot.operation, slot.called_at});
    fail(std::move(fault));
  }
  warp.lane[self] = {input, output, operation, mask, pc, work};
  waiting |= 1u << self;
  bool complete = (waiting & mask) == mask;
  for (uint32_t left = mask; complete && left != 0; left &= left - 1) complete = same(warp.lane[__builtin_ctz(left)]);
  if (!complete) return wait(State::kWaiting, operation, pc);
  work(warp, closure);
  waiting &= ~mask;
  for (int i = 0; i < kWarpSize; ++i) {
    if ((mask >> i & 1) == 0) continue;
    warp.lane[i] = LaneSlot{};
    release(first + size_t(i));
  }
}

// --- Waiting.

void Block::spin(const void* pc) { wait(State::kSpinning, "a loop that waits for memory to change", pc); }

/// A thread that keeps `waiting` from going on, or `waiting` itself when there is none in particular.
size_t Block::find_missing(size_t waiting) const {
  const Thread& thread = threads_[waiting];
  if (thread.state != State::kWaiting) return waiting;
  if (thread.barrier >= 0) {
    for (size_t i = 0; i < threads_.size(); ++i)
      if (!barriers_[size_t(thread.barrier)].came(i)) return i;
    return waiting;
  }
  const size_t warp = waiting / kWarpSize;
  const LaneSlot& slot = warps_[warp].lane[waiting % kWarpSize];
  for (uint32_t left = slot.mask; left != 0; left &= left - 1) {
    const LaneSlot& other = warps_[warp].lane[__builtin_ctz(left)];
    if (other.mask != slot.mask || other.operation != slot.operation)  // not here, or somewhere else
      return warp * kWarpSize + size_t(__builtin_ctz(left));
  }
  return waiting;
}

void Block::fail_with_deadlock() {
  failed_ = true;
  failure_ = Fault{};
  failure_.block = index_;
  size_t first = threads_.size(), waiting = 0;
  for (size_t i = threads_.size(); i-- > 0;)
    if (threads_[i].state == State::kWaiting || threads_[i].state == State::kSpinning) first = i, ++waiting;
  const Thread& thread = threads_[first];
  failure_.has_thread = true, failure_.thread = first, failure_.thread_index = thread.index;
  failure_.stack = {thread.waiting_at};
  failure_.what = std::string("deadlock: this thread waits in ") + thread.waiting_for + "; " + number(waiting) +
                  " of " + number(threads_.size()) + " threads wait, " + number(finished_) + " have exited";
  if (const size_t missing = find_missing(first); missing != first) {
    const Thread& other = threads_[missing];
    if (other.state == State::kFinished)
      failure_.related.push_back({"thread " + number(missing) + " never comes: it has exited", nullptr});
    else
      failure_.related.push_back(
          {"thread " + number(missing) + " never comes: it waits in " + other.waiting_for, other.waiting_at});
  } else if (thread.state == State::kSpinning && !launch_.cooperative) {
    failure_.related.push_back(
        {"blocks of a launch that is not cooperative run in any order, also one after another", nullptr});
  }
}

// --- Memory.

/// Where the kernel called the warp-wide operation that accesses memory for `lanes`. (`pc` lies in its work(warp),
/// which is a function of the wrapper's unless the compiler inlines it.)
const void* Block::place_of(uint32_t lanes, const void* pc) const {
  const LaneSlot& slot = warps_[running_ / kWarpSize].lane[__builtin_ctz(lanes)];
  return slot.called_at != nullptr ? slot.called_at : pc;
}

char* Block::shared_access(uint32_t address, size_t bytes, size_t alignment, bool write, const char* operation,
                           uint32_t lanes, const void* pc) {
  if (size_t(address) + bytes > shared_.bytes())
    fault(std::string(operation) + ": shared address " + number(address) + " + " + number(bytes) +
          " bytes is past the end (" + number(shared_.bytes()) + ")");
  if (address % alignment != 0)
    fault(std::string(operation) + ": shared address " + number(address) + " is not a multiple of " +
          number(alignment));
  char* pointer = shared_.data() + address;
  // The caller's own copy is instrumented.
  if (checker_ && lanes != kCallingLane) checker_->access_by_lanes(pointer, bytes, write, lanes, place_of(lanes, pc));
  return pointer;
}

const void* Block::global_access(const void* address, size_t bytes, size_t alignment, bool write,
                                 const char* operation, uint32_t lanes, const void* pc) {
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0)
    fault(std::string(operation) + ": the global address is misaligned: not a multiple of " + number(alignment));
  if (checker_ && lanes != kCallingLane) checker_->access_by_lanes(address, bytes, write, lanes, place_of(lanes, pc));
  return address;
}

void Block::async_copy(uint32_t destination, const void* source, int bytes, int source_bytes, const void* pc) {
  char* target = shared_access(destination, size_t(bytes), size_t(bytes), true, "cp.async", kCallingLane, pc);
  if (source_bytes < 0 || source_bytes > bytes) fault("cp.async: src-size is out of range");
  global_access(source, size_t(source_bytes), size_t(bytes), false, "cp.async", kCallingLane, pc);
  if (checker_) {
    if (source_bytes > 0) checker_->access(source, size_t(source_bytes), false, pc);
    checker_->begin_copy(target, size_t(bytes), pc);
  }
  threads_[running_].copies.enqueue(target, source, bytes, source_bytes);
}

void Block::async_copy_landed(const char* target, size_t bytes, bool source_changed) {
  if (source_changed) fault("cp.async: its source was written between the copy and the wait for it");
  if (checker_) checker_->end_copy(target, bytes);
}

void Block::async_wait(size_t pending_groups) {
  threads_[running_].copies.wait(pending_groups, [this](const char* target, size_t bytes, bool changed) {
    async_copy_landed(target, bytes, changed);
  });
}

void Block::async_wait_all() {
  threads_[running_].copies.wait_all([this](const char* target, size_t bytes, bool changed) {
    async_copy_landed(target, bytes, changed);
  });
}

}  // namespace lrk::emulator
