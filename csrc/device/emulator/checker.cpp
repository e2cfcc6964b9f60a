#include "device/emulator/checker.h"

#include <link.h>

#include "device/emulator/block.h"

namespace lrk::emulator {

constinit thread_local Checker* watching = nullptr;

namespace {

constexpr size_t kBarriers = 16;

std::string range(size_t begin, size_t bytes) {
  return std::string("[").append(std::to_string(begin)).append(", ").append(std::to_string(begin + bytes)).append(")");
}

std::string number_of_bytes(size_t bytes) { return bytes == 1 ? "1 byte" : std::to_string(bytes) + " bytes"; }

}  // namespace

Checker::Checker(GridChecker& grid, size_t threads, const char* shared, size_t shared_bytes)
    : grid_(grid), shared_(shared), shared_bytes_(shared_bytes), clocks_(threads),
      shadow_(shared_bytes, (threads + kWarpSize - 1) / kWarpSize, false), arrived_(kBarriers), threads_(threads) {}

void Checker::begin_block(uint32_t block) {
  clocks_.begin_block(block);
  objects_.clear();
  for (Knowledge& arrived : arrived_) arrived.clear();
  waited_ = started_next_before_wait_ = false;
  unwritten_bytes_ = 0;
}

void Checker::end_block() {
  if (waited_) grid_.block_has_waited(started_next_before_wait_);
}

// --- Accesses.

void Checker::access_elsewhere(const char* address, size_t bytes, bool write, Strength strength, uint32_t lanes,
                               const void* pc, size_t alignment) {
  const Unwatched unwatched;
  const bool shared = size_t(address - shared_) < std::max(shared_bytes_, page_bytes());
  const Access access{write, strength, shared ? kOwnBlock : clocks_.block(), thread_ / kWarpSize, lanes, pc};
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0)
    report("a misaligned access of " + number_of_bytes(bytes) + ": the address is not a multiple of " +
               std::to_string(alignment), access);
  if (shared)
    shared_access(address, bytes, access);
  else
    global_access(address, bytes, access);
}

void Checker::shared_access(const char* address, size_t bytes, const Access& access) {
  const size_t offset = size_t(address - shared_);
  if (offset + bytes > shared_bytes_)
    report(std::string(access.write ? "writes" : "reads") + " shared bytes " + range(offset, bytes) +
               ", past the end (" + std::to_string(shared_bytes_) + ")", access);
  Conflict conflict;
  const bool fine = shadow_.visit(offset, bytes, access.write, [&](Cell& cell, size_t first, size_t count) {
    conflict.offset = first, conflict.bytes = count;
    if (!access.write && cell.write_tick < clocks_.first_tick()) {
      conflict.kind = Kind::kUnwritten;
      return false;
    }
    const bool good = access.write ? write_cell(shadow_, cell, access, conflict) : read_cell(cell, access, conflict);
    if (good && !access.write) note_read(cell, shadow_.read(cell, access.warp), access);  // a warp has its own
    return good;
  });
  if (access.write && unwritten_bytes_ != 0) look_for_late_writer(offset, bytes, access);
  if (!fine) report(conflict, access, "shared bytes " + range(conflict.offset, conflict.bytes));
}

void Checker::global_access(const char* address, size_t bytes, const Access& access) {
  const GridChecker::Span* span = grid_.find(address, bytes, access.write);
  if (span == nullptr) {
    if (!access.write && in_program_constants(address)) return;
    report(grid_.refusal(address, bytes, access.write), access);
  }
  if (span->shadow == nullptr) return;
  if (grid_.may_overlap()) search_unfinished_launches(*span, address, bytes, access);
  Conflict conflict;
  Shadow& shadow = *span->shadow;
  const bool fine = shadow.visit(size_t(address - span->shadow_begin), bytes, access.write,
                                 [&](Cell& cell, size_t first, size_t count) {
    conflict.offset = first, conflict.bytes = count;
    if (access.write) return write_cell(shadow, cell, access, conflict);
    if (!read_cell(cell, access, conflict)) return false;
    // What nobody can write is read for the sake of a launch after this one only.
    if (span->shadow_writable || cell.reads == 0) remember_read(shadow, cell, access);
    return true;
  });
  if (!fine)
    report(conflict, access, GridChecker::place(*span, span->shadow_begin + conflict.offset, conflict.bytes));
}

/// In a programmatic launch: does one that may still be running conflict?
void Checker::search_unfinished_launches(const GridChecker::Span& span, const char* address, size_t bytes,
                                         const Access& access) {
  const bool after_wait = has_waited();
  for (const auto& launch : grid_.unfinished(after_wait)) {
    const GridChecker::Touch touch = launch->conflict_with(address, bytes, access.write);
    if (!touch.touched) continue;
    report(std::string(access.write ? "writes " : "reads ") + GridChecker::place(span, address, bytes) + " " +
               grid_.may_still_run(*launch, after_wait),
           access, {{"its thread " + std::to_string(touch.thread) + (touch.written ? " writes" : " reads") + " them",
                     touch.pc}});
  }
}

/// Tables and literals of the program: the read-only segments of what is loaded.
bool Checker::in_program_constants(const char* address) const {
  struct Search {
    uintptr_t address;
    bool found;
  } search{reinterpret_cast<uintptr_t>(address), false};
  dl_iterate_phdr(
      [](dl_phdr_info* module, size_t, void* data) {
        auto& wanted = *static_cast<Search*>(data);
        for (int i = 0; i < module->dlpi_phnum; ++i) {
          const auto& segment = module->dlpi_phdr[i];
          const bool constant = (segment.p_type == PT_LOAD && (segment.p_flags & PF_W) == 0) ||
                                segment.p_type == PT_GNU_RELRO;
          if (constant && wanted.address - (module->dlpi_addr + segment.p_vaddr) < segment.p_memsz)
            wanted.found = true;
        }
        return int(wanted.found);
      },
      &search);
  return search.found;
}

// --- Order.

bool Checker::ordered_since_barrier(bool own, uint32_t block, size_t thread, uint32_t tick, size_t warp,
                                    uint32_t lanes) const {
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    const size_t self = warp * kWarpSize + size_t(__builtin_ctz(left));
    if (own ? self != thread && clocks_.known(self, thread) < tick
            : clocks_.known_abroad(self, block, thread) < tick)
      return false;
  }
  return true;
}

bool Checker::read_unsettled_cell(const Cell& cell, const Access& access, Conflict& conflict) const {
  if ((cell.flags & Cell::kInFlight) != 0)
    conflict.kind = Kind::kInFlight;
  else if (access.strength == Strength::kConstant && cell.write_tick != 0)
    conflict.kind = Kind::kConstantWritten;
  else if (cell.write_tick != 0 && !(access.strong() && (cell.flags & Cell::kStrong) != 0) &&
           !ordered(cell.write_block, cell.writer, cell.write_tick, access.warp, access.lanes))
    conflict.kind = Kind::kAfterWrite;
  else
    return true;
  conflict.block = cell.write_block, conflict.thread = cell.writer, conflict.pc = cell.write_pc;
  return false;
}

bool Checker::write_cell(Shadow& shadow, Cell& cell, const Access& access, Conflict& conflict) {
  if (!read_cell(cell, access, conflict)) return false;
  // The records of shared memory are the block's own: none need be looked at when a barrier came after the latest.
  const bool settled = access.block == kOwnBlock && cell.read_tick <= clocks_.settled();
  if (cell.reads != 0 && !settled) {
    const bool constant = (cell.flags & Cell::kReadAsConstant) != 0;
    const bool good = shadow.visit_reads(cell, [&](const ReadRecord& record) {
      conflict.block = record.block, conflict.pc = record.pc;
      conflict.thread = record.warp * size_t(kWarpSize) + size_t(__builtin_ctz(record.pc_lanes));
      if (constant && record.constant) {
        conflict.kind = Kind::kConstantRead;
        return false;
      }
      if (access.strong() && record.strong) return true;
      // First those whose place is known.
      for (uint32_t lanes : {record.pc_lanes, record.lanes & ~record.pc_lanes}) {
        for (uint32_t left = lanes; left != 0; left &= left - 1) {
          conflict.thread = record.warp * size_t(kWarpSize) + size_t(__builtin_ctz(left));
          if (ordered(record.block, conflict.thread, record.tick, access.warp, access.lanes)) continue;
          conflict.kind = Kind::kAfterRead;
          return false;
        }
        conflict.pc = nullptr;
      }
      return true;
    });
    if (!good) return false;
  }
  shadow.forget_reads(cell);
  const size_t writer = access.warp * kWarpSize + size_t(__builtin_ctz(access.lanes));
  cell.write_tick = clocks_.tick(), cell.write_block = access.block, cell.writer = uint16_t(writer);
  cell.write_pc = access.pc;
  cell.flags = uint8_t((cell.flags & Cell::kSplit) | (access.strong() ? Cell::kStrong : 0));
  return true;
}

/// Global memory is read by warps of many blocks. Reads that come before what all of the block does now need no
/// memory of their own: what is unordered with them is unordered with this one.
void Checker::remember_read(Shadow& shadow, Cell& cell, const Access& access) {
  ReadRecord* chosen = nullptr;
  shadow.visit_reads(cell, [&](ReadRecord& record) {
    const bool alike = record.constant == (access.strength == Strength::kConstant);
    if (alike && record.block == clocks_.block() && record.warp == access.warp) chosen = &record;
    return chosen == nullptr;
  });
  if (chosen == nullptr)
    chosen = &shadow.unused_read(cell, [&](const ReadRecord& record) {
      return record.block == clocks_.block() && record.tick <= clocks_.settled() && !record.constant;
    });
  note_read(cell, *chosen, access);
  if (access.strength == Strength::kConstant) chosen->constant = true, cell.flags |= Cell::kReadAsConstant;
}

/// Earlier reads of the record that come before this one are forgotten: what is unordered with them is unordered with
/// this one. The rest get its tick.
void Checker::note_read(Cell& cell, ReadRecord& record, const Access& access) const {
  if (record.tick <= clocks_.settled_in_warp(access.warp)) {
    record.lanes = 0, record.strong = true;
  } else if (clocks_.any_partial()) {
    for (uint32_t left = record.lanes; left != 0; left &= left - 1) {
      const size_t reader = access.warp * kWarpSize + size_t(__builtin_ctz(left));
      if (ordered(access.block, reader, record.tick, access.warp, access.lanes)) record.lanes &= ~(left & -left);
    }
  }
  record.pc_lanes &= record.lanes;
  if (record.pc_lanes == 0) record.pc = access.pc;
  if (record.pc == access.pc) record.pc_lanes |= access.lanes;
  record.tick = cell.read_tick = clocks_.tick(), record.lanes |= access.lanes;
  record.block = access.block, record.warp = uint16_t(access.warp);
  record.strong = record.strong && access.strong();
}

// --- cp.async.

void Checker::begin_copy(const char* target, size_t bytes, const void* pc) {
  const Access access{true, Strength::kWeak, kOwnBlock, thread_ / kWarpSize, own_lane(), pc};
  Conflict conflict;
  const bool fine =
      shadow_.visit(size_t(target - shared_), bytes, true, [&](Cell& cell, size_t first, size_t count) {
        conflict.offset = first, conflict.bytes = count;
        if (!write_cell(shadow_, cell, access, conflict)) return false;
        cell.flags |= Cell::kInFlight;
        return true;
      });
  if (unwritten_bytes_ != 0) look_for_late_writer(size_t(target - shared_), bytes, access);
  if (!fine) report(conflict, access, "shared bytes " + range(conflict.offset, conflict.bytes));
}

void Checker::end_copy(const char* target, size_t bytes) {
  shadow_.visit(size_t(target - shared_), bytes, true, [&](Cell& cell, size_t, size_t) {
    cell.flags = uint8_t(cell.flags & ~Cell::kInFlight);
    cell.write_tick = clocks_.tick();
    return true;
  });
}

// --- Events.

void Checker::complete(unsigned barrier, const std::vector<size_t>& waited) {
  if (waited.size() == threads_)
    clocks_.sync_block();
  else
    clocks_.sync(waited, &arrived_[barrier]);
  arrived_[barrier].clear();
}

void Checker::observe(const void* address, bool acquire, Scope scope) {
  const bool in_shared = size_t(static_cast<const char*>(address) - shared_) < shared_bytes_;
  SyncObjects& objects = in_shared ? objects_ : grid_.objects();
  const auto found = objects.find(reinterpret_cast<uintptr_t>(address));
  if (found == objects.end()) return;
  const auto own = found->second.block.find(clocks_.block());
  const Knowledge* block = own == found->second.block.end() ? nullptr : &own->second;
  if (!acquire) {
    clocks_.observe(thread_, block, found->second.grid);
    return;
  }
  if (block != nullptr) clocks_.acquire(thread_, *block);
  if (scope == Scope::kGrid) clocks_.acquire(thread_, found->second.grid);
}

void Checker::publish(const void* address, bool release, Scope scope, bool update) {
  const bool in_shared = size_t(static_cast<const char*>(address) - shared_) < shared_bytes_;
  SyncObject& object = (in_shared ? objects_ : grid_.objects())[reinterpret_cast<uintptr_t>(address)];
  if (!update) object = SyncObject{};  // a plain store ends what was published before; an update carries it on
  if (release) {
    const Knowledge knowledge = clocks_.release(thread_);
    join(object.block[clocks_.block()], knowledge);
    if (scope == Scope::kGrid) join(object.grid, knowledge);
  } else {
    const Clocks::Scoped& fenced = clocks_.fenced(thread_);
    join(object.block[clocks_.block()], fenced.block);
    if (scope == Scope::kGrid) join(object.grid, fenced.grid);
  }
}

// --- Reports.

std::string Checker::name_of(uint32_t block, size_t thread) const {
  std::string name = "thread " + std::to_string(thread);
  if (block == kOwnBlock || block == clocks_.block()) return name;
  const Dim3 index = grid_.block_index(block);
  return name + " of block (" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

void Checker::report(const Conflict& conflict, const Access& access, const std::string& place) {
  const std::string verb = access.write ? "writes " : "reads ", other = name_of(conflict.block, conflict.thread);
  switch (conflict.kind) {
    case Kind::kUnwritten: {
      // Threads run one after another here, so the writer may be one that has not run yet.
      if (unwritten_bytes_ == 0) unwritten_offset_ = conflict.offset, unwritten_bytes_ = conflict.bytes;
      Block::current()->suspect(fault_of("reads " + place + ", which nobody has written", access));
    }
    case Kind::kInFlight:
      report(verb + place + " while a cp.async into them is in flight: a wait is missing", access,
             {{"issued by " + other, conflict.pc}});
    case Kind::kConstantWritten:
      report("reads " + place + " by ld.global.nc, which the same launch writes", access,
             {{"written by " + other, conflict.pc}});
    case Kind::kConstantRead:
      report("writes " + place + ", which the same launch reads by ld.global.nc", access,
             {{"read by " + other, conflict.pc}});
    case Kind::kAfterRead:
      report("a data race: writes " + place + ", which " + other + " reads, with nothing that orders the two", access,
             conflict.pc != nullptr ? std::vector<Fault::Place>{{"read", conflict.pc}} : std::vector<Fault::Place>());
    default:
      report("a data race: " + verb + place + ", which " + other + " writes, with nothing that orders the two", access,
             {{"written", conflict.pc}});
  }
}

Fault Checker::fault_of(std::string what, const Access& access) const {
  Fault fault;
  fault.what = std::move(what), fault.lane = int(__builtin_ctz(access.lanes));
  return fault;
}

void Checker::report(std::string what, const Access& access, std::vector<Fault::Place> related) {
  Fault fault = fault_of(std::move(what), access);
  fault.related = std::move(related);
  Block::current()->fail(std::move(fault));
}

/// A thread has ended at a read of what nobody had written. It has released nothing since, so whoever writes those
/// bytes now is not ordered after it, and was not ordered before it.
void Checker::look_for_late_writer(size_t offset, size_t bytes, const Access& access) {
  if (offset + bytes <= unwritten_offset_ || unwritten_offset_ + unwritten_bytes_ <= offset) return;
  const size_t writer = access.warp * kWarpSize + size_t(__builtin_ctz(access.lanes));
  Block::current()->late_cause({"thread " + std::to_string(writer) +
                                    " writes them, with nothing that orders the two: is a barrier missing? written",
                                access.pc});
}

}  // namespace lrk::emulator
