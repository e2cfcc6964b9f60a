#include <algorithm>

#include "device/emulator/checker.h"
#include "device/emulator/symbols.h"

namespace lrk::emulator {

namespace {

constexpr size_t kReadsPerCell = 2;

const char* whole_word(const char* address) {
  return reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(address) & ~uintptr_t(3));
}

}  // namespace

GridChecker::GridChecker(const Launch& launch, UnfinishedLaunches unfinished)
    : kernel_(launch.kernel), grid_(launch.grid), unfinished_(std::move(unfinished)) {
  for (const MemorySpan& span : launch.parameters) spans_.push_back({span});
  std::vector<Span> operands;
  for (const MemorySpan& span : RegisteredSpans::of_this_thread())
    if (span.extent() > 0) operands.push_back({span});
  // Operands may overlap (base may be y), but a byte has one shadow.
  std::sort(operands.begin(), operands.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  for (const Span& span : operands) {
    const char *begin = whole_word(span.begin), *end = span.begin + span.extent();
    if (regions_.empty() || begin >= regions_.back().end)
      regions_.push_back({begin, end, false, nullptr});
    else
      regions_.back().end = std::max(regions_.back().end, end);
    regions_.back().writable = regions_.back().writable || span.writable;
  }
  for (Region& region : regions_)
    region.shadow = std::make_unique<Shadow>(size_t(region.end - region.begin), kReadsPerCell, true);
  for (Span& span : operands) {
    const auto region = std::find_if(regions_.begin(), regions_.end(), [&](const Region& candidate) {
      return span.begin >= candidate.begin && span.begin < candidate.end;
    });
    span.shadow = region->shadow.get(), span.shadow_begin = region->begin, span.shadow_writable = region->writable;
    spans_.push_back(span);
  }
}

bool GridChecker::Span::contains(const char* address, size_t bytes) const {
  const size_t offset = size_t(address - begin);
  if (address < begin || offset + bytes > extent()) return false;
  return lines <= 1 || stride <= line_bytes || offset % stride + bytes <= line_bytes;
}

const GridChecker::Span* GridChecker::find(const char* address, size_t bytes, bool write) const {
  for (const Span& span : spans_)
    if (span.contains(address, bytes) && (span.writable || !write)) return &span;
  return nullptr;
}

std::string GridChecker::place(const Span& span, const char* address, size_t bytes) {
  const auto offset = address - span.begin;
  return "bytes [" + std::to_string(offset) + ", " + std::to_string(offset + ptrdiff_t(bytes)) + ") of " + span.name;
}

std::string GridChecker::refusal(const char* address, size_t bytes, bool write) const {
  const std::string verb = write ? "writes " : "reads ";
  const Span* nearest = nullptr;
  size_t nearest_distance = ~size_t(0);
  for (const Span& span : spans_) {
    if (span.contains(address, bytes))
      return verb + place(span, address, bytes) + ", which the launch may only read";
    const size_t distance = address < span.begin ? size_t(span.begin - address)
                            : address >= span.begin + span.extent() ? size_t(address - (span.begin + span.extent()))
                                                                     : 0;
    if (distance < nearest_distance) nearest = &span, nearest_distance = distance;
  }
  constexpr size_t kFar = size_t(1) << 20;
  const std::string count = std::to_string(bytes) + " bytes of global memory out of bounds: ";
  if (nearest == nullptr || nearest_distance > kFar)
    return verb + count + "no operand of the launch is near (is the memory named in a GlobalMemory?)";
  if (nearest_distance == 0 && address + bytes <= nearest->begin + nearest->extent())
    return verb + count + place(*nearest, address, bytes) + " lie between its lines";
  return verb + count + place(*nearest, address, bytes) + ", which has " + std::to_string(nearest->extent()) +
         " bytes";
}

GridChecker::Touch GridChecker::conflict_with(const char* address, size_t bytes, bool write) const {
  Touch touch;
  for (const Region& region : regions_) {
    const char *begin = std::max(address, region.begin), *end = std::min(address + bytes, region.end);
    if (begin >= end) continue;
    region.shadow->visit(size_t(begin - region.begin), size_t(end - begin), false, [&](Cell& cell, size_t, size_t) {
      if (cell.write_tick != 0)
        touch = {true, true, cell.writer, cell.write_pc};
      else if (write)
        region.shadow->visit_reads(cell, [&](const ReadRecord& record) {
          const size_t lane = size_t(__builtin_ctz(record.pc_lanes));
          touch = {true, false, uint16_t(record.warp * kWarpSize + lane), record.pc};
          return false;
        });
      return !touch.touched;
    });
  }
  return touch;
}

std::string GridChecker::may_still_run(const GridChecker& other, bool after_wait) const {
  const std::string name = "kernel " + function_name(other.kernel_);
  if (after_wait)
    return "after griddepcontrol.wait, which waits for the launch before this one, but " + name +
           " was launched earlier and may still be running: not every launch between them has waited";
  const bool is_last = !unfinished_.at_start.empty() && unfinished_.at_start.front().get() == &other;
  return "before griddepcontrol.wait: " + name + ", " +
         (is_last ? "the launch before this one," : "launched earlier,") + " may still be running";
}

UnfinishedLaunches GridChecker::unfinished_after(const std::shared_ptr<GridChecker>& ended) {
  UnfinishedLaunches own = std::move(ended->unfinished_), next;
  ended->unfinished_ = {};
  next.at_start = ended->waited_before_next_ ? own.after_wait : own.at_start;
  next.after_wait = ended->has_waited_ ? std::move(own.after_wait) : std::move(own.at_start);
  next.at_start.insert(next.at_start.begin(), ended);
  constexpr size_t kMost = 16;  // of a chain in which nobody waits, so that it does not keep all
  for (auto* launches : {&next.at_start, &next.after_wait}) launches->resize(std::min(launches->size(), kMost));
  return next;
}

Dim3 GridChecker::block_index(uint32_t block) const {
  const size_t linear = size_t(block) - 1;
  return Dim3(unsigned(linear % grid_.x), unsigned(linear / grid_.x % grid_.y), unsigned(linear / grid_.x / grid_.y));
}

}  // namespace lrk::emulator
