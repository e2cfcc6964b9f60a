// The checked mode on shared memory: for each kind of bug a small kernel with the bug, whose report must name kernel,
// block, thread and line, and the same kernel without it, which must run.
#include <vector>

#include "device/ptx/cp_async.cuh"
#include "device/ptx/ldmatrix.cuh"
#include "device/smem.cuh"
#include "device/vector.cuh"
#include "emulator_test.h"

namespace lrk {
namespace {

using namespace testing;

alignas(16) float input_values[256];
float output_values[256];
const float* const input = input_values;
float* const output = output_values;

// --- What was never written, or is still on its way.

template <bool kBug>
void reads_unwritten(float* out) {
  float* shared = dynamic_shared<float>();
  if (!kBug || blockIdx.x != 2 || threadIdx.x != 5) shared[threadIdx.x] = 1.0f;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];  // [unwritten]
}

/// The writer runs after the reader here, as on a GPU it may; then the reader finds what nobody has written yet.
template <bool kBug>
void reads_before_the_writer(float* out) {
  float* shared = dynamic_shared<float>();
  if (threadIdx.x == 40) shared[7] = 1.0f;  // [late writer]
  if constexpr (!kBug) __syncthreads();
  if (threadIdx.x == 3) out[3] = shared[7];  // [early reader]
  __syncthreads();
}

template <bool kBug>
void reads_before_the_copy(const float* in, float* out) {
  float* shared = dynamic_shared<float>();
  if (threadIdx.x >= 32)
    ptx::cp_async<4>(ptx::shared_address(shared + threadIdx.x - 32), in, 4);  // [late copy]
  ptx::cp_async_wait_all();
  if constexpr (!kBug) __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x % 32];  // [reads early]
}

template <bool kBug>
void reads_half_written(float* out) {
  auto* shared = dynamic_shared<uint16_t>();
  if (!kBug || threadIdx.x % 2 == 0 || threadIdx.x > 8) shared[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x < 16) out[threadIdx.x] = reinterpret_cast<float*>(shared)[threadIdx.x];  // [half written]
}

template <bool kBug>
void reads_in_flight(const float* in, float* out) {
  float* shared = dynamic_shared<float>();
  ptx::cp_async<4>(ptx::shared_address(shared + threadIdx.x), in + threadIdx.x, 4);  // [issue]
  ptx::cp_async_commit();
  if constexpr (!kBug) ptx::cp_async_wait<0>();
  out[threadIdx.x] = shared[threadIdx.x];  // [in flight]
}

template <bool kBug>
void waits_for_too_few(const float* in, float* out) {
  float* shared = dynamic_shared<float>();
  for (int group = 0; group < 3; ++group) {
    ptx::cp_async<4>(ptx::shared_address(shared + 32 * group + threadIdx.x), in + threadIdx.x, 4);  // [issue of groups]
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait<kBug ? 2 : 1>();
  out[threadIdx.x] = shared[32 + threadIdx.x];  // [second group]
}

template <bool kBug>
void writes_in_flight(const float* in, float* out) {
  float* shared = dynamic_shared<float>();
  ptx::cp_async<4>(ptx::shared_address(shared + threadIdx.x), in + threadIdx.x, 4);
  if constexpr (!kBug) ptx::cp_async_wait_all();
  shared[threadIdx.x] = 2.0f;  // [write in flight]
  ptx::cp_async_wait_all();
  out[threadIdx.x] = shared[threadIdx.x];
}

// --- Races.

/// Neighbours exchange values; the barrier is what the first half of the block waits for the second with.
template <bool kBug>
void races_read(float* out) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = 1.0f;  // [raced write]
  if constexpr (!kBug) __syncthreads();
  // Threads run in order here, so what thread 40 reads has been written; on a GPU it may not be.
  if (threadIdx.x >= 32) out[threadIdx.x] = shared[threadIdx.x - 32];  // [racing read]
}

template <bool kBug>
void races_overwrite(float* out) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % 64];  // [raced read]
  if constexpr (!kBug) __syncthreads();
  shared[threadIdx.x] = 2.0f;  // [racing write]
}

template <bool kBug>
void races_two_writes() {
  dynamic_shared<float>()[threadIdx.x % (kBug ? 48 : 64)] = 1.0f;  // [two writes]
}

/// Bytes of one word by four threads are no race; the same byte is.
template <bool kBug>
void races_in_a_word() {
  dynamic_shared<uint8_t>()[kBug && threadIdx.x == 6 ? 5 : threadIdx.x] = 1;  // [same byte]
}

/// A tile arrives by cp.async; every thread waits for its own copies, but only a barrier shows it the others'.
template <bool kBug>
void races_ldmatrix(const float* in, uint32_t* out) {
  const uint32_t shared = ptx::shared_address(dynamic_shared<char>());
  if (threadIdx.x < 32) {
    ptx::cp_async<16>(shared + threadIdx.x * 16, in + threadIdx.x * 4, 16);  // [tile copy]
    ptx::cp_async_wait_all();
  }
  if constexpr (!kBug) __syncthreads();
  if (threadIdx.x < 32) return;
  uint32_t fragment[4];
  ptx::ldmatrix_x4(fragment, shared + threadIdx.x % 32 * 16);  // [ldmatrix]
  for (int i = 0; i < 4; ++i) out[(threadIdx.x - 32) * 4 + i] = fragment[i];
}

// --- Warps.

enum class Between { kNothing, kSyncwarp, kHalfWarp, kShuffle };

/// Lanes read what a neighbour wrote, then what a lane of the other half wrote. A shuffle meets them, orders nothing.
template <Between kBetween>
void exchanges_in_a_warp(float* out) {
  float* shared = dynamic_shared<float>();
  const unsigned lane = threadIdx.x;
  shared[31 - lane] = float(lane);
  if constexpr (kBetween == Between::kSyncwarp) __syncwarp();
  if constexpr (kBetween == Between::kHalfWarp) __syncwarp(lane < 16 ? 0xffffu : 0xffff0000u);
  if constexpr (kBetween == Between::kShuffle) __shfl_xor_sync(0xffffffffu, lane, 1);
  out[lane] = shared[(63 - (lane ^ 1)) % 32];  // [neighbour]
  out[lane] += shared[(63 - (lane ^ 16)) % 32];  // [other half]
}

/// All lanes read a counter, which then one reads again and moves on.
template <bool kBug>
void moves_a_counter_on(float* out) {
  float* shared = dynamic_shared<float>();
  if (threadIdx.x == 7) shared[0] = 1.0f;
  __syncwarp();
  out[threadIdx.x] = shared[0];  // [counter read]
  if constexpr (!kBug) __syncwarp();
  if (threadIdx.x == 30) shared[0] += 1.0f;  // [counter moved]
}

/// The same by half a warp, whose lanes alone wait for each other.
void moves_a_half_warps_counter_on(float* out) {
  float* shared = dynamic_shared<float>();
  if (threadIdx.x >= 16) return;
  if (threadIdx.x == 7) shared[0] = 1.0f;
  __syncwarp(0xffffu);
  out[threadIdx.x] = shared[0];
  __syncwarp(0xffffu);
  if (threadIdx.x == 15) shared[0] += 1.0f;
}

/// Lanes of one warp read a word in two places, and another warp writes it.
template <bool kBug>
void reads_in_two_places(float* out) {
  float* shared = dynamic_shared<float>();
  if (threadIdx.x == 0) shared[0] = 1.0f;
  __syncthreads();
  if (threadIdx.x == 3) out[3] = shared[0];  // [one place]
  if (threadIdx.x == 5) out[5] = shared[0];
  if constexpr (!kBug) __syncthreads();
  if (threadIdx.x == 40) shared[0] = 2.0f;  // [written for both]
}

/// Warps 1 to 3 fill a buffer and arrive; warp 0 waits for them alone.
template <bool kBug>
void produces_by_named_barrier(float* out) {
  float* shared = dynamic_shared<float>();
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x >= 32) {
      if (round > 0) emulator::barrier_sync(2, 128);
      shared[threadIdx.x - 32] = float(round);  // [producer]
      emulator::barrier_arrive(1, 128);
    } else {
      if (!kBug || round != 1) emulator::barrier_sync(1, 128);
      for (int i = 0; i < 3; ++i) out[threadIdx.x] += shared[threadIdx.x + 32 * i];  // [consumer]
      if (kBug && round == 1) emulator::barrier_sync(1, 128);
      if (round < 2) emulator::barrier_arrive(2, 128);
    }
  }
}

/// Two warps read at different times and hand the buffer back one after the other: the later read must not count
/// against the earlier reader.
template <bool kBug>
void hands_back_one_by_one(float* out) {
  float* shared = dynamic_shared<float>();
  const unsigned warp = threadIdx.x / 32;
  if (warp == 2) shared[threadIdx.x % 32] = 1.0f;
  __syncthreads();
  if (warp == 0) {
    out[threadIdx.x] = shared[threadIdx.x];
    emulator::barrier_arrive(1, 64);
  } else if (warp == 1) {
    __syncwarp();
    out[threadIdx.x] = shared[threadIdx.x - 32];  // [late reader]
    if constexpr (!kBug) emulator::barrier_arrive(2, 64);
  } else {
    emulator::barrier_sync(1, 64);
    if constexpr (!kBug) emulator::barrier_sync(2, 64);
    shared[threadIdx.x % 32] = 2.0f;  // [early writer]
  }
}

// --- Bounds and alignment.

template <bool kBug>
void overruns(float* out) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x + (kBug ? 1 : 0)] = 1.0f;  // [overrun]
  out[threadIdx.x] = 1.0f;
}

template <bool kBug>
void overreads(float* out) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = 1.0f;
  out[threadIdx.x] = shared[kBug && threadIdx.x == 28 ? 32 : threadIdx.x];  // [overread]
}

template <bool kBug>
void misaligns_a_vector(float* out) {
  float* shared = dynamic_shared<float>();
  for (unsigned i = threadIdx.x; i < 132; i += 32) shared[i] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = load_vector<float4>(shared + threadIdx.x * 4 + (kBug ? 2 : 0)).x;  // [vector]
}

template <bool kBug>
void misaligns_a_float(float* out) {
  char* shared = dynamic_shared<char>();
  shared[threadIdx.x * 4] = 0;
  *reinterpret_cast<float*>(shared + threadIdx.x * 4 + (kBug ? 2 : 0)) = 1.0f;  // [float]
  out[threadIdx.x] = 1.0f;
}

/// A copy of a size the compiler does not know is a call, which is seen too.
template <bool kBug>
[[maybe_unused]] void overruns_by_memcpy(const float* in, int count) {
  if (threadIdx.x == 3) memcpy(dynamic_shared<float>() + 16, in, size_t(kBug ? count + 1 : count) * 4);  // [memcpy]
}

#define LRK_CHECK(kernel, threads, bytes, expected, ...)                                              \
  expect_report(__FILE__, start(kernel<true>, dim3(1), dim3(threads), bytes, __VA_ARGS__), expected); \
  expect_silence(start(kernel<false>, dim3(1), dim3(threads), bytes, __VA_ARGS__), #kernel)

void test_arrival() {
  GlobalMemory memory;
  memory.reads(input, sizeof(input_values)).writes(output, sizeof(output_values));
  expect_report(__FILE__, start(reads_unwritten<true>, dim3(3), dim3(64), 256, output),
                {"reads_unwritten<true>", 2, 5, "shared bytes [20, 24), which nobody has written", "unwritten"});
  expect_silence(start(reads_unwritten<false>, dim3(3), dim3(64), 256, output), "reads_unwritten");
  LRK_CHECK(reads_before_the_writer, 64, 32,
            (Expected{"reads_before_the_writer<true>", 0, 3,
                      "shared bytes [28, 32), which nobody has written; thread 40 writes them, with nothing that "
                      "orders the two: is a barrier missing? written at", "early reader", "late writer"}),
            output);
  LRK_CHECK(reads_before_the_copy, 64, 128,
            (Expected{"reads_before_the_copy<true>", 0, 0,
                      "shared bytes [0, 4), which nobody has written; thread 32 writes them", "reads early",
                      "late copy"}),
            input, output);
  LRK_CHECK(reads_half_written, 32, 64,
            (Expected{"reads_half_written<true>", 0, 0, "shared bytes [2, 3), which nobody has written",
                      "half written"}),
            output);
  LRK_CHECK(reads_in_flight, 32, 128,
            (Expected{"reads_in_flight<true>", 0, 0, "cp.async into them is in flight", "in flight", "issue"}),
            input, output);
  LRK_CHECK(waits_for_too_few, 32, 384,
            (Expected{"waits_for_too_few<true>", 0, 0, "shared bytes [128, 132) while a cp.async", "second group",
                      "issue of groups"}),
            input, output);
  LRK_CHECK(writes_in_flight, 32, 128,
            (Expected{"writes_in_flight<true>", 0, 0, "writes shared bytes [0, 4) while a cp.async",
                      "write in flight"}),
            input, output);
}

void test_races() {
  GlobalMemory memory;
  memory.reads(input, sizeof(input_values)).writes(output, sizeof(output_values));
  LRK_CHECK(races_read, 64, 256,
            (Expected{"races_read<true>", 0, 32, "data race: reads shared bytes [0, 4), which thread 0 writes",
                      "racing read", "raced write"}),
            output);
  LRK_CHECK(races_overwrite, 64, 256,
            (Expected{"races_overwrite<true>", 0, 0, "data race: writes shared bytes [0, 4), which thread 63 reads",
                      "racing write", "raced read"}),
            output);
  expect_report(__FILE__, start(races_two_writes<true>, dim3(1), dim3(64), 256),
                {"races_two_writes<true>", 0, 48, "data race: writes shared bytes [0, 4), which thread 0 writes",
                 "two writes", "two writes"});
  expect_silence(start(races_two_writes<false>, dim3(1), dim3(64), 256), "races_two_writes");
  expect_report(__FILE__, start(races_in_a_word<true>, dim3(1), dim3(64), 64),
                {"races_in_a_word<true>", 0, 6, "data race: writes shared bytes [5, 6), which thread 5 writes",
                 "same byte", "same byte"});
  expect_silence(start(races_in_a_word<false>, dim3(1), dim3(64), 64), "races_in_a_word");
  std::vector<uint32_t> fragments(128);
  memory.writes(fragments.data(), 512);
  LRK_CHECK(races_ldmatrix, 64, 512,
            (Expected{"races_ldmatrix<true>", 0, 32, "data race: reads shared bytes [0, 4), which thread 0 writes",
                      "ldmatrix", "tile copy"}),
            input, fragments.data());
}

void test_warps() {
  GlobalMemory memory;
  memory.writes(output, sizeof(output_values));
  expect_silence(start(exchanges_in_a_warp<Between::kSyncwarp>, dim3(1), dim3(32), 128, output), "__syncwarp");
  expect_report(__FILE__, start(exchanges_in_a_warp<Between::kNothing>, dim3(1), dim3(32), 128, output),
                {"exchanges_in_a_warp<(lrk::(anonymous namespace)::Between)0>", 0, 0,
                 "reads shared bytes [120, 124), which nobody has written", "neighbour"});
  expect_report(__FILE__, start(exchanges_in_a_warp<Between::kShuffle>, dim3(1), dim3(32), 128, output),
                {"exchanges_in_a_warp<(lrk::(anonymous namespace)::Between)3>", 0, 31,
                 "data race: reads shared bytes [4, 8), which thread 30 writes", "neighbour"});
  expect_report(__FILE__, start(exchanges_in_a_warp<Between::kHalfWarp>, dim3(1), dim3(32), 128, output),
                {"exchanges_in_a_warp<(lrk::(anonymous namespace)::Between)2>", 0, 15,
                 "shared bytes [0, 4), which nobody has written", "other half"});
  LRK_CHECK(moves_a_counter_on, 32, 4,
            (Expected{"moves_a_counter_on<true>", 0, 30, "data race: writes shared bytes [0, 4), which thread 0 reads",
                      "counter moved", "counter read"}),
            output);
  expect_silence(start(moves_a_half_warps_counter_on, dim3(1), dim3(32), 4, output), "moves_a_half_warps_counter_on");
  LRK_CHECK(reads_in_two_places, 64, 4,
            (Expected{"reads_in_two_places<true>", 0, 40, "data race: writes shared bytes [0, 4), which thread 3 reads",
                      "written for both", "one place"}),
            output);
  LRK_CHECK(produces_by_named_barrier, 128, 384,
            (Expected{"produces_by_named_barrier<true>", 0, 32, "data race: writes shared bytes [0, 4), which thread 0",
                      "producer", "consumer"}),
            output);
  LRK_CHECK(hands_back_one_by_one, 96, 128,
            (Expected{"hands_back_one_by_one<true>", 0, 95,
                      "data race: writes shared bytes [124, 128), which thread 63", "early writer", "late reader"}),
            output);
}

void test_bounds() {
  GlobalMemory memory;
  memory.reads(input, sizeof(input_values)).writes(output, sizeof(output_values));
  LRK_CHECK(overruns, 32, 128,
            (Expected{"overruns<true>", 0, 31, "writes shared bytes [128, 132), past the end (128)", "overrun"}),
            output);
  LRK_CHECK(overreads, 32, 128,
            (Expected{"overreads<true>", 0, 28, "reads shared bytes [128, 132), past the end (128)", "overread"}),
            output);
  LRK_CHECK(misaligns_a_vector, 32, 528,
            (Expected{"misaligns_a_vector<true>", 0, 31, "misaligned access, the address is not a multiple of 16",
                      "vector"}),
            output);
  LRK_CHECK(misaligns_a_float, 32, 132,
            (Expected{"misaligns_a_float<true>", 0, 0, "misaligned access of 4 bytes", "float"}), output);
#if !defined(__clang__)  // of which version 14 calls the C library's memcpy past every hook
  LRK_CHECK(overruns_by_memcpy, 32, 128,
            (Expected{"overruns_by_memcpy<true>", 0, 3, "writes shared bytes [64, 132), past the end (128)", "memcpy"}),
            input, 16);
#endif
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_arrival();
  lrk::test_races();
  lrk::test_warps();
  lrk::test_bounds();
  return lrk::testing::report();
}
