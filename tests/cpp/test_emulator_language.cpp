// What kernels say beyond plain barriers, in both modes of the emulator: shuffles with groups, votes, matches,
// reductions, named barriers, atomics and flags within and between blocks, cooperative and programmatic launches.
#include <algorithm>
#include <set>
#include <vector>

#include "device/smem.cuh"
#include "device/spin.cuh"
#include "emulator_test.h"

namespace lrk {
namespace {

using namespace testing;
using emulator::Order;
using emulator::Scope;

constexpr unsigned kAll = 0xffffffffu;

/// Runs kernel(results) on `threads` threads of one block and returns what they wrote, `each` a thread.
template <class T>
std::vector<T> results_of(void (*kernel)(T*), unsigned threads, size_t each, size_t shared_bytes = 0) {
  std::vector<T> results(threads * each);
  GlobalMemory memory;
  memory.writes(results.data(), results.size() * sizeof(T));
  const Status status = start(kernel, dim3(1), dim3(threads), shared_bytes, results.data());
  if (!status.ok()) std::printf("  %s\n", status.message.c_str());
  expect(status.ok(), "the kernel runs");
  return results;
}

// --- Shuffles in groups of `width` lanes: the tables of the CUDA programming guide, written out for lanes 0 to 31.

void grouped_shuffles(int* results) {
  const int lane = int(threadIdx.x);
  int* mine = results + lane * 5;
  mine[0] = __shfl_sync(kAll, lane, 9, 8);
  mine[1] = __shfl_up_sync(kAll, lane, 3u, 16);
  mine[2] = __shfl_down_sync(kAll, lane, 3u, 16);
  mine[3] = __shfl_xor_sync(kAll, lane, 6, 4);
  mine[4] = __shfl_up_sync(kAll, lane, 1u);
}

void test_shuffles() {
  const std::vector<int> results = results_of(grouped_shuffles, 32, 5);
  bool right = true;
  for (int lane = 0; lane < 32; ++lane) {
    const int* mine = &results[size_t(lane * 5)];
    const int xor_source = lane ^ 6;  // of an earlier group of four: read; of a later one: not
    right = right && mine[0] == lane / 8 * 8 + 1 && mine[1] == (lane % 16 < 3 ? lane : lane - 3) &&
            mine[2] == (lane % 16 > 12 ? lane : lane + 3) &&
            mine[3] == (xor_source / 4 <= lane / 4 ? xor_source : lane) && mine[4] == std::max(lane - 1, 0);
  }
  expect(right, "shuffles stay within their groups");
}

// --- Votes, matches, reductions.

void votes(unsigned* results) {
  const int lane = int(threadIdx.x) % 32;
  unsigned* mine = results + threadIdx.x * 6;
  mine[0] = __ballot_sync(kAll, lane % 3 == 0);
  mine[1] = unsigned(__any_sync(kAll, lane == 77) | __any_sync(kAll, lane == 31) << 1);
  mine[2] = unsigned(__all_sync(kAll, lane < 31) | __all_sync(kAll, lane < 32) << 1);
  mine[3] = __match_any_sync(kAll, lane * lane % 7);
  int all_match = -1;
  mine[4] = __match_all_sync(kAll, lane / 32, &all_match);
  mine[4] += unsigned(all_match);
  if (lane < 8) mine[5] = __ballot_sync(0xffu, lane & 1);
}

void test_votes() {
  const std::vector<unsigned> results = results_of(votes, 64, 6);
  unsigned thirds = 0;
  for (int lane = 0; lane < 32; lane += 3) thirds |= 1u << lane;
  bool right = true;
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const unsigned* mine = &results[size_t(thread * 6)];
    unsigned same = 0;
    for (int other = 0; other < 32; ++other) same |= unsigned(other * other % 7 == lane * lane % 7) << other;
    right = right && mine[0] == thirds && mine[1] == 2 && mine[2] == 2 && mine[3] == same && mine[4] == 0 &&
            (lane >= 8 || mine[5] == 0xaau);
  }
  expect(right, "votes and matches");  // match_all: the full mask and a one wrap to zero
}

void reductions(int* results) {
  const int lane = int(threadIdx.x), value = lane * 37 % 29 - 14;
  int* mine = results + lane * 6;
  mine[0] = __reduce_add_sync(kAll, value);
  mine[1] = __reduce_min_sync(kAll, value);
  mine[2] = __reduce_max_sync(kAll, unsigned(value)) == unsigned(-1);
  mine[3] = int(__reduce_and_sync(kAll, unsigned(lane) | 0x40u));
  mine[4] = int(__reduce_or_sync(kAll, 1u << lane % 5));
  mine[5] = int(__reduce_xor_sync(kAll, unsigned(lane * lane)));
}

void test_reductions() {
  const std::vector<int> results = results_of(reductions, 32, 6);
  int sum = 0, least = 99, folded = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const int value = lane * 37 % 29 - 14;
    sum += value, least = std::min(least, value), folded ^= lane * lane;
  }
  bool right = true;
  for (int lane = 0; lane < 32; ++lane) {
    const int* mine = &results[size_t(lane * 6)];
    right = right && mine[0] == sum && mine[1] == least && mine[2] == 1 && mine[3] == 0x40 && mine[4] == 0x1f &&
            mine[5] == folded;
  }
  expect(right, "reductions over a warp");
}

// --- Named barriers: two pairs of warps exchange through shared memory, each pair at its own pace.

void paired_warps(int* results) {
  int* shared = dynamic_shared<int>();
  const int warp = int(threadIdx.x) / 32, pair = warp / 2, lane = int(threadIdx.x) % 32;
  int total = 0;
  for (int round = 0; round <= pair; ++round) {
    shared[warp * 32 + lane] = 100 * warp + lane + round;
    emulator::barrier_sync(unsigned(1 + pair), 64);
    total += shared[(warp ^ 1) * 32 + (31 - lane)];
    emulator::barrier_sync(unsigned(1 + pair), 64);
  }
  results[threadIdx.x] = total;
}

void test_named_barriers() {
  const std::vector<int> results = results_of(paired_warps, 128, 1, 512);
  bool right = true;
  for (int thread = 0; thread < 128; ++thread) {
    const int warp = thread / 32, lane = thread % 32, first = 100 * (warp ^ 1) + 31 - lane;
    right = right && results[size_t(thread)] == (warp < 2 ? first : 2 * first + 1);
  }
  expect(right, "named barriers keep two pairs of warps apart");
}

// --- Atomics and flags.

void counts(unsigned* count, uint64_t* wide, unsigned* tickets) {
  const unsigned ticket = emulator::atomic_update(count, [](unsigned old) { return old + 1; });
  tickets[ticket] = blockIdx.x * blockDim.x + threadIdx.x;
  emulator::atomic_update(wide, [=](uint64_t old) { return std::max(old, uint64_t(ticket) << 33); });
}

void test_atomics() {
  unsigned count = 0, *count_pointer = &count;
  uint64_t wide = 0, *wide_pointer = &wide;
  std::vector<unsigned> tickets(16 * 64);
  GlobalMemory memory;
  memory.writes(&count, 4).writes(&wide, 8).writes(tickets.data(), tickets.size() * 4);
  expect(start(counts, dim3(16), dim3(64), 0, count_pointer, wide_pointer, tickets.data()).ok(), "atomics run");
  expect(count == 1024 && wide == uint64_t(1023) << 33, "no update of 16 blocks is lost");
  expect(std::set<unsigned>(tickets.begin(), tickets.end()).size() == 1024, "every ticket is drawn once");
}

/// The last block to arrive sums what all have written: threadFenceReduction of the CUDA samples.
void last_block_sums(const int* values, int* partial, unsigned* arrived, int* sum) {
  unsigned* is_last = dynamic_shared<unsigned>();
  if (threadIdx.x < 4) partial[blockIdx.x * 4 + threadIdx.x] = values[blockIdx.x * 4 + threadIdx.x] * 2;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    *is_last = emulator::atomic_update(arrived, [](unsigned old) { return old + 1; }) == gridDim.x - 1;
  }
  __syncthreads();
  if (*is_last == 0 || threadIdx.x != 0) return;
  __threadfence();
  int total = 0;
  for (unsigned i = 0; i < gridDim.x * 4; ++i) total += partial[i];
  *sum = total;
}

/// Each block hands a running total to the next (as a decoupled look-back does).
void passes_on(const int* values, int* totals, unsigned* ready) {
  if (threadIdx.x != 0) return;
  const unsigned block = blockIdx.x;
  int before = 0;
  if (block > 0) {
    spin_until([&] { return emulator::atomic_load(ready + block - 1, Order::kAcquire) == 1; });
    before = totals[block - 1];
  }
  totals[block] = before + values[block];
  emulator::atomic_store(ready + block, 1u, Order::kRelease);
}

void test_flags() {
  std::vector<int> values(64), partial(64), totals(64);
  std::vector<unsigned> ready(64);
  for (int i = 0; i < 64; ++i) values[size_t(i)] = i * i;
  unsigned arrived = 0;
  int sum = 0;
  GlobalMemory memory;
  memory.reads(values.data(), 256).writes(partial.data(), 256).writes(&arrived, 4).writes(&sum, 4);
  memory.writes(totals.data(), 256).writes(ready.data(), 256);
  const Status summed = start(last_block_sums, dim3(16), dim3(64), 4, values.data(), partial.data(), &arrived, &sum);
  if (!summed.ok()) std::printf("  %s\n", summed.message.c_str());
  expect(summed.ok() && sum == 2 * 63 * 64 * 127 / 6, "the last block sees what all have written");
  const Status passed = start(passes_on, dim3(64), dim3(32), 0, values.data(), totals.data(), ready.data());
  if (!passed.ok()) std::printf("  %s\n", passed.message.c_str());
  expect(passed.ok() && totals[63] == 63 * 64 * 127 / 6, "a running total passes from block to block");
}

/// A grid-wide barrier between two phases, each block reading in the second what another wrote in the first.
void two_phases(int* first, int* second, unsigned* count) {
  first[blockIdx.x * 32 + threadIdx.x] = int(blockIdx.x * 100 + threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    emulator::atomic_update(count, [](unsigned old) { return old + 1; }, Order::kAcquireRelease);
    spin_until([&] { return emulator::atomic_load(count, Order::kAcquire) == gridDim.x; });
  }
  __syncthreads();
  const unsigned other = (blockIdx.x + 1) % gridDim.x;
  second[blockIdx.x * 32 + threadIdx.x] = first[other * 32 + threadIdx.x];
  first[other * 32 + threadIdx.x] = -1;
}

void test_cooperation() {
  std::vector<int> first(8 * 32), second(8 * 32);
  unsigned count = 0;
  GlobalMemory memory;
  memory.writes(first.data(), first.size() * 4).writes(second.data(), second.size() * 4).writes(&count, 4);
  LaunchConfig config(dim3(8), dim3(32), 0, Context{});
  config.cooperative = true;
  const Status status = launch(two_phases, config, first.data(), second.data(), &count);
  if (!status.ok()) std::printf("  %s\n", status.message.c_str());
  bool right = status.ok();
  for (int i = 0; i < 8 * 32; ++i)
    right = right && second[size_t(i)] == (i / 32 + 1) % 8 * 100 + i % 32 && first[size_t(i)] == -1;
  expect(right, "a grid-wide barrier separates two phases");
}

void produces(int* values) {
  values[threadIdx.x] = int(threadIdx.x) + 1;
  emulator::grid_dependency_trigger();
}
void consumes(const int* values, int* sums) {
  emulator::grid_dependency_wait();
  sums[threadIdx.x] = values[threadIdx.x] + values[31 - threadIdx.x];
}

void test_dependent_launch() {
  std::vector<int> values(32), sums(32);
  GlobalMemory memory;
  memory.writes(values.data(), 128).writes(sums.data(), 128);
  LaunchConfig config(dim3(1), dim3(32), 0, Context{});
  const Status produced = launch(produces, config, values.data());
  config.programmatic = true;
  const Status consumed = launch(consumes, config, values.data(), sums.data());
  expect(produced.ok() && consumed.ok() && std::count(sums.begin(), sums.end(), 33) == 32,
         "a dependent launch reads what the one before it wrote");
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_shuffles();
  lrk::test_votes();
  lrk::test_reductions();
  lrk::test_named_barriers();
  lrk::test_atomics();
  lrk::test_flags();
  lrk::test_cooperation();
  lrk::test_dependent_launch();
  return lrk::testing::report();
}
