// Barriers that not all reach, waits that never end, and warps that come apart: reported in every mode with kernel,
// block and thread, and in checked mode with the line where the thread waits.
#include "device/smem.cuh"
#include "device/spin.cuh"
#include "emulator_test.h"

namespace lrk {
namespace {

using namespace testing;

template <bool kBug>
void leaves_before_the_barrier() {
  if (kBug && threadIdx.x == 7) return;
  __syncthreads();  // [barrier]
}

/// Half of the block takes one barrier, half another: both would wait for all.
template <bool kBug>
void takes_two_barriers() {
  if (kBug && threadIdx.x >= 32)
    __syncthreads();  // [other barrier]
  else
    emulator::barrier_sync(2, 64);  // [one barrier]
}

template <bool kBug>
void names_two_counts() {
  emulator::barrier_sync(1, kBug && threadIdx.x >= 32 ? 32 : 64);  // [counts]
}

template <bool kBug>
void comes_twice() {
  if (threadIdx.x >= 32) return emulator::barrier_sync(1, 96);
  emulator::barrier_arrive(1, 96);
  if constexpr (kBug) emulator::barrier_arrive(1, 96);  // [twice]
}

template <bool kBug>
void counts_by_halves() {
  emulator::barrier_sync(kBug ? 16 : 15, 64);  // [barrier 16]
}

template <bool kBug>
void parts_a_warp(int* out) {
  if (kBug && threadIdx.x % 2 == 1)
    __syncwarp();  // [odd lanes]
  else
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 2);
}

/// Both halves vote with their own mask before all lanes meet; with the bug one half asks for all.
template <bool kBug>
void votes_by_halves(int* out) {
  if (threadIdx.x >= 16)
    __syncwarp(kBug ? 0xffffffffu : 0xffff0000u);  // [upper half]
  else
    out[threadIdx.x] = __all_sync(0x0000ffffu, 1);
  out[threadIdx.x] = __any_sync(0xffffffffu, 1);
}

template <bool kBug>
void shuffles_from_outside(int* out) {
  const unsigned mask = kBug ? 0x0000ffffu : 0xffffffffu;
  if (threadIdx.x >= 16 && kBug) return;
  out[threadIdx.x] = __shfl_xor_sync(mask, int(threadIdx.x), 16);  // [shuffle]
}

template <bool kBug>
void spins_forever(unsigned* flag) {
  if (!kBug && threadIdx.x == 40) emulator::atomic_store(flag, 1u);
  if (threadIdx.x == 3) spin_until([&] { return emulator::atomic_load(flag) == 1; });  // [spin]
}

/// Block 0 waits for block 1. Fine when both are alive at once, which only a cooperative launch makes sure of, or when
/// the other runs on another processor; a deadlock when nobody sets the flag.
template <bool kBug>
void waits_for_a_block(unsigned* flag) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0)
    spin_until([&] { return emulator::atomic_load(flag) == 1; });  // [waits for a block]
  else if (!kBug)
    emulator::atomic_store(flag, 1u);
}

/// Two warps hand a turn to and fro by a volatile flag: each leaves one wait and enters the next within a turn.
template <bool kBug>
void passes_the_turn() {
  volatile unsigned* turn = dynamic_shared<unsigned>();
  if (threadIdx.x == 0) *turn = 0;
  __syncthreads();
  if (threadIdx.x % 32 != 0) return;
  for (unsigned round = 0; round < 8; ++round) {
    const unsigned mine = 2 * round + threadIdx.x / 32;
    spin_until([&] { return *turn == mine; });  // [turn]
    if (!kBug || round < 3) *turn = mine + 1;
  }
}

Status start_cooperative(void (*kernel)(unsigned*), unsigned blocks, unsigned threads, unsigned* flag) {
  LaunchConfig config(dim3(blocks), dim3(threads), 0, Context{});
  config.cooperative = true;
  return launch(kernel, config, flag);
}

void test_barriers() {
  expect_report(__FILE__, start(leaves_before_the_barrier<true>, dim3(1), dim3(64), 0),
                {"leaves_before_the_barrier<true>", 0, 0,
                 "deadlock: this thread waits in __syncthreads; 63 of 64 threads wait, 1 have exited; thread 7 never "
                 "comes: it has exited", "barrier"});
  expect_silence(start(leaves_before_the_barrier<false>, dim3(1), dim3(64), 0), "leaves_before_the_barrier");
  expect_report(__FILE__, start(takes_two_barriers<true>, dim3(1), dim3(64), 0),
                {"takes_two_barriers<true>", 0, 0,
                 "waits in bar.sync; 64 of 64 threads wait, 0 have exited; thread 32 never comes: it waits in "
                 "__syncthreads",
                 "one barrier", "other barrier"});
  expect_silence(start(takes_two_barriers<false>, dim3(1), dim3(64), 0), "takes_two_barriers");
  expect_report(__FILE__, start(names_two_counts<true>, dim3(1), dim3(64), 0),
                {"names_two_counts<true>", 0, 32, "32 threads at barrier 1, where others said 64", "counts"});
  expect_silence(start(names_two_counts<false>, dim3(1), dim3(64), 0), "names_two_counts");
  expect_report(__FILE__, start(comes_twice<true>, dim3(1), dim3(96), 0),
                {"comes_twice<true>", 0, 0, "comes twice to one phase of barrier 1", "twice"});
  expect_silence(start(comes_twice<false>, dim3(1), dim3(96), 0), "comes_twice");
  expect_report(__FILE__, start(counts_by_halves<true>, dim3(1), dim3(64), 0),
                {"counts_by_halves<true>", 0, 0, "there is no barrier 16", "barrier 16"});
  expect_silence(start(counts_by_halves<false>, dim3(1), dim3(64), 0), "counts_by_halves");
}

void test_warps() {
  int values[64];
  int* out = values;
  GlobalMemory memory;
  memory.writes(out, sizeof(values));
  expect_report(__FILE__, start(parts_a_warp<true>, dim3(1), dim3(32), 0, out),
                {"parts_a_warp<true>", 0, 1, "different operations: __syncwarp and __shfl_xor_sync", "odd lanes"});
  expect_silence(start(parts_a_warp<false>, dim3(1), dim3(32), 0, out), "parts_a_warp");
  expect_report(__FILE__, start(votes_by_halves<true>, dim3(1), dim3(32), 0, out),
                {"votes_by_halves<true>", 0, 16, "different operations: __syncwarp and __any_sync", "upper half"});
  expect_silence(start(votes_by_halves<false>, dim3(1), dim3(32), 0, out), "votes_by_halves");
  expect_report(__FILE__, start(shuffles_from_outside<true>, dim3(1), dim3(32), 0, out),
                {"shuffles_from_outside<true>", 0, 15, "the source lane is not in the mask", "shuffle"});
  expect_silence(start(shuffles_from_outside<false>, dim3(1), dim3(32), 0, out), "shuffles_from_outside");
}

void test_waits() {
  unsigned value = 0, *flag = &value;
  GlobalMemory memory;
  memory.writes(flag, sizeof(value));
  expect_report(__FILE__, start(spins_forever<true>, dim3(1), dim3(64), 0, flag),
                {"spins_forever<true>", 0, 3, "waits in a loop that waits for memory to change", "spin"});
  expect_silence(start(spins_forever<false>, dim3(1), dim3(64), 0, flag), "spins_forever");
  expect_report(__FILE__, start(passes_the_turn<true>, dim3(1), dim3(64), 4),
                {"passes_the_turn<true>", 0, 0, "waits in a loop that waits for memory to change", "turn"});
  expect_silence(start(passes_the_turn<false>, dim3(1), dim3(64), 4), "passes_the_turn");
  value = 0;
  expect_report(__FILE__, start(waits_for_a_block<true>, dim3(2), dim3(32), 0, flag),
                {"waits_for_a_block<true>", 0, 0, "deadlock", "waits for a block"});
  expect_silence(start(waits_for_a_block<false>, dim3(2), dim3(32), 0, flag), "waits_for_a_block");
  value = 0;
  expect_report(__FILE__, start_cooperative(waits_for_a_block<true>, 3, 64, flag),
                {"waits_for_a_block<true>", 0, 0, "deadlock", "waits for a block"});
  expect_silence(start_cooperative(waits_for_a_block<false>, 3, 64, flag), "waits_for_a_block, cooperative");
  expect(mentions(start_cooperative(waits_for_a_block<false>, 9, 1024, flag),
                  "invalid launch: 9 cooperative blocks, of which 8 fit the device at once"),
         "a cooperative launch must fit the device");
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_barriers();
  lrk::test_warps();
  lrk::test_waits();
  return lrk::testing::report();
}
