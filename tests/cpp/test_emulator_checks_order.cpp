// Barriers that not all reach, waits that never end, and warps that come apart: reported in every mode with kernel,
// block and thread, and in checked mode with the line where the thread waits.
#include "device/ptx/ldmatrix.cuh"
#include "device/ptx/mma.cuh"
#include "device/ptx/stmatrix.cuh"
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

// --- .aligned: a warp takes a barrier, mma, ldmatrix and stmatrix as one.

/// Half of each of two warps makes 32 threads, but a GPU would count both warps.
template <bool kBug>
void counts_half_warps() {
  if (kBug ? threadIdx.x % 32 >= 16 : threadIdx.x < 32) emulator::barrier_sync(3, 32);  // [half warps]
}

template <bool kBug>
void arrives_by_halves() {
  if (threadIdx.x >= 32) emulator::barrier_sync(3, 64);
  if (kBug ? threadIdx.x < 16 : threadIdx.x < 32) emulator::barrier_arrive(3, 64);
  if (kBug && threadIdx.x >= 16 && threadIdx.x < 32) emulator::barrier_sync(3, 64);  // [sync of a half]
}

/// All threads come to __syncthreads, but not to the same one.
template <bool kBug>
void syncs_in_two_branches(int* out) {
  if (kBug && threadIdx.x % 32 < 8) {
    out[threadIdx.x] = 1;
    __syncthreads();  // [branch]
  } else {
    out[threadIdx.x] = 2;
    __syncthreads();  // [other branch]
  }
}

template <bool kBug>
void loads_in_two_branches(uint32_t* out) {
  auto* shared = dynamic_shared<uint32_t>();
  shared[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const uint32_t row = ptx::shared_address(shared) + threadIdx.x % 8 * 16;
  uint32_t fragment[1];
  if (kBug && threadIdx.x >= 16) {
    ptx::ldmatrix_x1(fragment, row);  // [upper ldmatrix]
    out[threadIdx.x] = fragment[0] + 1;
  } else {
    out[threadIdx.x] = 0;
    ptx::ldmatrix_x1(fragment, row);  // [lower ldmatrix]
    out[threadIdx.x] += fragment[0];
  }
}

/// The same instruction by name, for one matrix and for two.
template <bool kBug>
void loads_unlike_counts(uint32_t* out) {
  auto* shared = dynamic_shared<uint32_t>();
  for (unsigned i = threadIdx.x; i < 64; i += 32) shared[i] = i;
  __syncthreads();
  const uint32_t row = ptx::shared_address(shared) + threadIdx.x % 16 * 16;
  uint32_t fragment[2] = {};
  if (kBug && threadIdx.x == 31) {
    uint32_t one[1];
    ptx::ldmatrix_x1(one, row);  // [one matrix]
    fragment[0] = one[0];
  } else {
    ptx::ldmatrix_x2(fragment, row);  // [two matrices]
  }
  out[threadIdx.x] = fragment[0] + fragment[1];
}

template <bool kBug>
void stores_by_some_lanes() {
  const uint32_t fragment[1] = {threadIdx.x};
  if (kBug && threadIdx.x % 4 == 3) return;
  ptx::stmatrix_x1(ptx::shared_address(dynamic_shared<char>()) + threadIdx.x % 8 * 16, fragment);  // [stmatrix]
}

template <bool kBug>
void multiplies_by_some_lanes() {
  const uint32_t a[4] = {}, b[2] = {};
  float d[4] = {};
  if (kBug && threadIdx.x == 45) __syncwarp(1u << 13);
  if (!kBug || threadIdx.x != 45) ptx::mma_m16n8k16<BFloat16>(d, a, b[0], b[1]);  // [mma]
  __syncthreads();  // [after mma]
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

void test_whole_warps() {
  uint32_t values[64];
  auto* const words = values;
  auto* const numbers = reinterpret_cast<int*>(values);
  GlobalMemory memory;
  memory.writes(values, sizeof(values));
  expect_report(__FILE__, start(counts_half_warps<true>, dim3(1), dim3(64), 0),
                {"counts_half_warps<true>", 0, 16,
                 "bar.sync is .aligned, whole warps take it: here only lanes 0xffff0000 of warp 0 came; thread 0 is "
                 "missing: it has exited", "half warps"});
  expect_silence(start(counts_half_warps<false>, dim3(1), dim3(64), 0), "counts_half_warps");
  expect_report(__FILE__, start(arrives_by_halves<true>, dim3(1), dim3(64), 0),
                {"arrives_by_halves<true>", 0, 16,
                 "lanes of one warp come to barrier 3 by different instructions: bar.sync and bar.arrive",
                 "sync of a half"});
  expect_silence(start(arrives_by_halves<false>, dim3(1), dim3(64), 0), "arrives_by_halves");
  expect_report(__FILE__, start(syncs_in_two_branches<true>, dim3(1), dim3(64), 0, numbers),
                {"syncs_in_two_branches<true>", 0, 8,
                 "__syncthreads is .aligned, a warp takes it in one place: the lanes of warp 0 come from two; thread 0 "
                 "came", "other branch", "branch"});
  expect_silence(start(syncs_in_two_branches<false>, dim3(1), dim3(64), 0, numbers), "syncs_in_two_branches");
  expect_report(__FILE__, start(loads_in_two_branches<true>, dim3(1), dim3(32), 128, words),
                {"loads_in_two_branches<true>", 0, 0,  // thread 31 completes the barrier, and so goes on first
                 "ldmatrix is .aligned, a warp takes it in one place: the lanes of warp 0 come from two; thread 31 "
                 "came",
                 "lower ldmatrix", "upper ldmatrix"});
  expect_silence(start(loads_in_two_branches<false>, dim3(1), dim3(32), 128, words), "loads_in_two_branches");
  expect_report(__FILE__, start(loads_unlike_counts<true>, dim3(1), dim3(32), 256, words),
                {"loads_unlike_counts<true>", 0, 0,
                 "lanes of one warp met in different operations: ldmatrix and ldmatrix of another type or size; thread "
                 "31 waits in ldmatrix", "two matrices", "one matrix"});
  expect_silence(start(loads_unlike_counts<false>, dim3(1), dim3(32), 256, words), "loads_unlike_counts");
  expect_report(__FILE__, start(stores_by_some_lanes<true>, dim3(1), dim3(32), 128),
                {"stores_by_some_lanes<true>", 0, 0,
                 "deadlock: this thread waits in stmatrix; 24 of 32 threads wait, 8 have exited; thread 3 never comes: "
                 "it has exited", "stmatrix"});
  expect_silence(start(stores_by_some_lanes<false>, dim3(1), dim3(32), 128), "stores_by_some_lanes");
  expect_report(__FILE__, start(multiplies_by_some_lanes<true>, dim3(1), dim3(64), 0),
                {"multiplies_by_some_lanes<true>", 0, 0,
                 "deadlock: this thread waits in __syncthreads; 64 of 64 threads wait, 0 have exited; thread 32 never "
                 "comes: it waits in mma.m16n8k16", "after mma", "mma"});
  expect_silence(start(multiplies_by_some_lanes<false>, dim3(1), dim3(64), 0), "multiplies_by_some_lanes");
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
                  "kernel waits_for_a_block<false>: invalid launch: 9 cooperative blocks of 1024 threads and 0 bytes "
                  "of shared memory, of which 8 fit the device at once (a limit of the emulated device"),
         "a cooperative launch must fit the device");
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_barriers();
  lrk::test_whole_warps();
  lrk::test_warps();
  lrk::test_waits();
  return lrk::testing::report();
}
