#include "device/emulator/clocks.h"

namespace lrk::emulator {

namespace {

void join_row(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

}  // namespace

void join(Knowledge& into, const Knowledge& from) {
  for (const auto& [block, row] : from) join_row(into[block], row);
}

void Clocks::begin_block(uint32_t block) {
  block_ = block;
  settled_ = tick_++;
  first_tick_ = tick_;
  for (auto& partial : partial_) partial.reset();
  any_partial_ = false;
  abroad_.clear();
  for (Scoped& fenced : fenced_) fenced = Scoped{};
  for (Scoped& observed : observed_) observed = Scoped{};
}

uint32_t Clocks::known_abroad(size_t thread, uint32_t block, size_t other) const {
  const auto look = [&](const Knowledge& knowledge) {
    const auto found = knowledge.find(block);
    return found == knowledge.end() || other >= found->second.size() ? 0u : found->second[other];
  };
  return std::max(look(abroad_), partial_[thread] ? look(partial_[thread]->abroad) : 0u);
}

void Clocks::know(size_t thread, Partial& into) const {
  into.row.resize(partial_.size());
  for (size_t other = 0; other < partial_.size(); ++other)
    into.row[other] = std::max(into.row[other], known(thread, other));
  if (partial_[thread]) join(into.abroad, partial_[thread]->abroad);
}

void Clocks::sync_block() {
  if (any_partial_) {
    for (auto& partial : partial_) {
      if (partial) join(abroad_, partial->abroad);
      partial.reset();
    }
    any_partial_ = false;
  }
  settled_ = tick_++;
}

void Clocks::sync(const std::vector<size_t>& threads, const Knowledge* arrived) {
  if (threads.empty()) return;
  auto joined = std::make_shared<Partial>();
  for (const size_t thread : threads) know(thread, *joined);
  if (arrived != nullptr)
    for (const auto& [block, row] : *arrived) join_row(block == block_ ? joined->row : joined->abroad[block], row);
  ++tick_;
  for (const size_t thread : threads) partial_[thread] = joined;
  any_partial_ = true;
}

void Clocks::sync_warp(size_t warp, uint32_t mask) {
  const size_t first = warp * kWarpSize;
  bool alike = mask == kAllLanes;
  for (size_t i = first; alike && i < first + kWarpSize; ++i) alike = partial_[i] == partial_[first];
  if (alike) {
    warp_ticks_[warp] = tick_++;
    return;
  }
  std::vector<size_t> threads;
  for (size_t i = 0; i < kWarpSize; ++i)
    if ((mask >> i & 1) != 0) threads.push_back(first + i);
  sync(threads, nullptr);
}

Knowledge Clocks::release(size_t thread) {
  Partial all;
  know(thread, all);
  join(all.abroad, abroad_);
  all.abroad[block_] = std::move(all.row);
  ++tick_;
  return std::move(all.abroad);
}

void Clocks::acquire(size_t thread, const Knowledge& knowledge) {
  if (knowledge.empty()) return;
  auto now = std::make_shared<Partial>();
  if (partial_[thread]) *now = *partial_[thread];
  for (const auto& [block, row] : knowledge) join_row(block == block_ ? now->row : now->abroad[block], row);
  if (!now->row.empty()) now->row.resize(partial_.size());
  partial_[thread] = std::move(now);
  any_partial_ = true;
}

void Clocks::fence(size_t thread, Scope scope) {
  Scoped& observed = observed_[thread];
  acquire(thread, observed.block);
  observed.block.clear();
  if (scope == Scope::kGrid) {
    acquire(thread, observed.grid);
    observed.grid.clear();
  }
  Scoped& fenced = fenced_[thread];
  fenced.block = release(thread);
  if (scope == Scope::kGrid) fenced.grid = fenced.block;
}

}  // namespace lrk::emulator
