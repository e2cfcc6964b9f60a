// The checked mode on global memory: bounds of what the launch names, races within a block and between blocks. As for
// shared memory each bug is reported with its place, and the kernel without it runs.
#include <memory>
#include <vector>

#include "device/ptx/cp_async.cuh"
#include "device/ptx/memory.cuh"
#include "device/smem.cuh"
#include "device/spin.cuh"
#include "device/vector.cuh"
#include "emulator_test.h"

namespace lrk {
namespace {

using namespace testing;
using emulator::Order;
using emulator::Scope;

// --- Bounds.

template <bool kBug>
void overruns(float* out) {
  out[threadIdx.x + (kBug ? 1 : 0)] = 1.0f;  // [overrun]
}

template <bool kBug>
void overreads(const float* in, float* out) {
  float sum = 0.0f;
  for (int i = 0; i < (kBug ? 33 : 32); ++i) sum += in[i];  // [overread]
  out[threadIdx.x] = sum;
}

template <bool kBug>
void copies_too_much(const float* in) {
  const uint32_t target = ptx::shared_address(dynamic_shared<char>()) + threadIdx.x * 16;
  if (threadIdx.x < 9) ptx::cp_async<16>(target, in + 4 * threadIdx.x, kBug || threadIdx.x < 8 ? 16 : 0);  // [copy]
  ptx::cp_async_wait_all();
}

/// A matrix [4, 6] with rows 8 apart: elements 6 and 7 of a row belong to somebody else.
template <bool kBug>
void writes_between_rows(float* matrix) {
  const unsigned row = threadIdx.x / 8, col = threadIdx.x % 8;
  if (col < (kBug ? 7 : 6)) matrix[row * 8 + col] = 1.0f;  // [padding]
}

template <bool kBug>
void writes_an_input(const float* in, float* out) {
  float* target = kBug ? const_cast<float*>(in) : out;
  target[threadIdx.x] = 1.0f;  // [input]
}

template <bool kBug>
void reads_the_host(const float* in, const float* host, float* out) {
  out[threadIdx.x] = (kBug ? host : in)[threadIdx.x];  // [host]
}

/// The address of a local variable means another variable to another thread.
template <bool kBug>
void shares_a_local(float* out) {
  auto** shared = dynamic_shared<float*>();
  float mine = float(threadIdx.x);
  if (threadIdx.x == 0 || !kBug) shared[threadIdx.x] = &mine;
  __syncthreads();
  out[threadIdx.x] = *shared[kBug ? 0 : threadIdx.x];  // [local]
  __syncthreads();
}

template <bool kBug>
void misaligns(float* out) {
  store_vector(out + 4 * threadIdx.x + (kBug && threadIdx.x == 9 ? 1 : 0), float4{1, 2, 3, 4});  // [vector]
}

/// Constants of the program and of the launch may be read.
constexpr int kTable[4] = {3, 1, 4, 1};
struct Large {
  int values[16];
};
void reads_constants(Large parameter, const float* in, float* out) {
  const volatile int* table = kTable;
  out[threadIdx.x] = in[threadIdx.x] + float(table[threadIdx.x % 4] + parameter.values[threadIdx.x % 16]);
}

// --- Races.

template <bool kBug>
void races_in_a_block(float* buffer) {
  buffer[threadIdx.x] = 1.0f;  // [block write]
  if constexpr (!kBug) __syncthreads();
  const float next = buffer[(threadIdx.x + 63) % 64];  // [block read]
  __syncthreads();
  buffer[threadIdx.x] = next;
}

template <bool kBug>
void races_between_writers(float* out) {
  if (threadIdx.x == 3) out[kBug ? 0 : blockIdx.x] = 1.0f;  // [two blocks]
}

/// Block 1 reads what block 0 writes. Blocks run in any order, so either may be the later.
template <bool kBug>
void races_with_a_reader(float* buffer, float* out) {
  if (blockIdx.x == 0)
    buffer[threadIdx.x] = 1.0f;  // [writing block]
  else
    out[threadIdx.x] = buffer[threadIdx.x + (kBug ? 0 : 32)];  // [reading block]
}

/// The last of many readers races; the writer waits for all others. Two blocks, so that nothing else orders them.
template <bool kBug>
void races_with_the_last_reader(float* word, unsigned* count, float* out) {
  constexpr unsigned kReaders = 6;
  if (blockIdx.x < kReaders) {
    out[blockIdx.x * 32 + threadIdx.x] = *word;  // [one of the readers]
    __syncwarp();
    if (kBug && blockIdx.x == 3) return;
    if (threadIdx.x == 0) emulator::atomic_update(count, [](unsigned old) { return old + 1; }, Order::kRelease);
  } else if (threadIdx.x == 0) {
    spin_until([&] { return emulator::atomic_load(count, Order::kAcquire) == kReaders - (kBug ? 1 : 0); });
    *word = 1.0f;  // [after the readers]
  }
}

/// Neighbouring bytes belong to different blocks, which is no race.
template <bool kBug>
void races_for_a_byte(uint8_t* bytes) {
  if (threadIdx.x == 7) bytes[kBug && blockIdx.x == 5 ? 4 : blockIdx.x] = uint8_t(blockIdx.x);  // [byte]
}

// --- ld.global.nc, which may read a cache that no write reaches: not even a barrier helps.

template <bool kBug>
void reads_as_constant_after(const uint16_t* in, uint16_t* out) {
  out[threadIdx.x] = uint16_t(threadIdx.x);  // [written before nc]
  __syncthreads();
  const uint16_t value = ptx::load_global_2((kBug ? out : in) + threadIdx.x, true);  // [nc after]
  __syncthreads();
  out[threadIdx.x] = value;
}

template <bool kBug>
void reads_as_constant_before(const uint16_t* in, uint16_t* out) {
  const uint16_t value = ptx::load_global_2((kBug ? out : in) + (threadIdx.x ^ 1), true);  // [nc before]
  const uint16_t again = out[threadIdx.x ^ 1];                                             // may be read so
  __syncthreads();
  out[threadIdx.x] = uint16_t(value + again);  // [written after nc]
}

// --- Flags. Block 1 waits for block 0's flag and reads its data.

enum class Flag { kReleaseAcquire, kFences, kRelaxed, kFencesOfABlock, kNoAcquire, kFenceBeforeBarrier };

template <Flag kFlag>
void passes_a_flag(float* data, unsigned* flag, float* out) {
  constexpr Scope kScope = kFlag == Flag::kFencesOfABlock ? Scope::kBlock : Scope::kGrid;
  constexpr bool kFences = kFlag == Flag::kFences || kFlag == Flag::kFencesOfABlock;
  if (blockIdx.x == 0) {
    data[threadIdx.x] = 1.0f;  // [data]
    if constexpr (kFlag == Flag::kFenceBeforeBarrier) __threadfence();
    __syncthreads();
    if (threadIdx.x != 0) return;
    if constexpr (kFences) emulator::fence(kScope);
    const bool releases = kFlag == Flag::kReleaseAcquire || kFlag == Flag::kNoAcquire;
    emulator::atomic_store(flag, 1u, releases ? Order::kRelease : Order::kRelaxed);
  } else {
    if (threadIdx.x == 0) {
      const bool acquires = kFlag == Flag::kReleaseAcquire;
      spin_until([&] { return emulator::atomic_load(flag, acquires ? Order::kAcquire : Order::kRelaxed) == 1; });
      if constexpr (kFences || kFlag == Flag::kFenceBeforeBarrier) emulator::fence(kScope);
    }
    __syncthreads();
    out[threadIdx.x] = data[threadIdx.x];  // [reads data]
  }
}

template <bool kBug>
void mixes_atomic_and_plain(unsigned* count) {
  if (threadIdx.x != 0) return;
  if (kBug && blockIdx.x == 1)
    *count = 0;  // [plain]
  else
    emulator::atomic_update(count, [](unsigned old) { return old + 1; });  // [atomic]
}

/// Two phases with a barrier of the whole grid in between.
template <bool kBug>
void two_phases(float* buffer, unsigned* count, float* out) {
  buffer[blockIdx.x * 32 + threadIdx.x] = 1.0f;  // [first phase]
  if constexpr (!kBug) __syncthreads();
  if (threadIdx.x == 0) {
    emulator::atomic_update(count, [](unsigned old) { return old + 1; }, Order::kAcquireRelease);
    spin_until([&] { return emulator::atomic_load(count, Order::kAcquire) == gridDim.x; });
  }
  __syncthreads();
  const unsigned other = (blockIdx.x + 1) % gridDim.x;
  out[blockIdx.x * 32 + threadIdx.x] = buffer[other * 32 + threadIdx.x];  // [second phase]
}

float* storage() {
  alignas(16) static float values[512];
  return values;
}

#define LRK_CHECK(kernel, blocks, threads, bytes, expected, ...)                                           \
  expect_report(__FILE__, start(kernel<true>, dim3(blocks), dim3(threads), bytes, __VA_ARGS__), expected); \
  expect_silence(start(kernel<false>, dim3(blocks), dim3(threads), bytes, __VA_ARGS__), #kernel)

/// Many blocks, on several operating-system threads, store to volatile memory.
void stores_volatile(float* out) {
  volatile float* mine = out + blockIdx.x;
  if (threadIdx.x == 0)
    for (int i = 0; i < 16; ++i) *mine = float(i);
}

void copies_floats(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }

template <bool kBug>
void overwrites_a_source(float* buffer) {
  ptx::cp_async<4>(ptx::shared_address(dynamic_shared<float>() + threadIdx.x), buffer + threadIdx.x, 4);
  if constexpr (!kBug) ptx::cp_async_wait_all();
  buffer[threadIdx.x] = -1.0f;
  ptx::cp_async_wait_all();  // [late wait]
}

/// Operands are named by objects that may end in any order; each takes its own with it.
void test_lifetimes() {
  float* const in = storage();
  float* const out = storage() + 256;
  const auto run = [&] { return start(copies_floats, dim3(1), dim3(32), 0, static_cast<const float*>(in), out); };
  auto first = std::make_unique<GlobalMemory>();
  auto second = std::make_unique<GlobalMemory>();
  second->writes(out, 128, "out");
  first->reads(in, 128, "in");
  expect_silence(run(), "both operands are named");
  second.reset();  // the first to be used
  expect(mentions(run(), "writes 4 bytes of global memory out of bounds"), "what was named last and first is gone");
  GlobalMemory third;
  third.writes(out, 128, "out");
  expect_silence(run(), "both operands are named again");
  first.reset();
  expect(mentions(run(), "reads 4 bytes of global memory out of bounds"), "what an object named goes with it");
}

/// Sixteen bytes that are aligned to eight are two accesses.
struct PairOfWords {
  uint64_t first, second;
};
void copies_pairs(const PairOfWords* in, PairOfWords* out) { out[threadIdx.x] = in[threadIdx.x]; }

void test_accesses() {
  float* const buffer = storage();
  GlobalMemory memory;
  memory.writes(buffer, 2048, "buffer");
  expect_silence(start(stores_volatile, dim3(256), dim3(32), 0, buffer), "stores_volatile");
  for (int i = 0; i < 32; ++i) buffer[i] = float(i);
  expect_report(__FILE__, start(overwrites_a_source<true>, dim3(1), dim3(32), 128, buffer),
                {"overwrites_a_source<true>", 0, 0, "cp.async: its source was written", "late wait"});
  expect_silence(start(overwrites_a_source<false>, dim3(1), dim3(32), 128, buffer), "overwrites_a_source");
  auto* const pairs = reinterpret_cast<PairOfWords*>(reinterpret_cast<char*>(buffer) + 8);
  expect_silence(start(copies_pairs, dim3(1), dim3(32), 0, static_cast<const PairOfWords*>(pairs), pairs + 32),
                 "copies_pairs");
}

void test_bounds() {
  float* const in = storage();
  float* const out = storage() + 256;
  {
    GlobalMemory memory;
    memory.reads(in, 128, "in").writes(out, 128, "out");
    LRK_CHECK(overruns, 1, 32, 0,
              (Expected{"overruns<true>", 0, 31,
                        "writes 4 bytes of global memory out of bounds: bytes [128, 132) of out, which has 128 bytes",
                        "overrun"}), out);
    LRK_CHECK(overreads, 1, 32, 0,
              (Expected{"overreads<true>", 0, 0, "reads 4 bytes of global memory out of bounds: bytes [128, 132) of in",
                        "overread"}), in, out);
    LRK_CHECK(copies_too_much, 1, 32, 160,
              (Expected{"copies_too_much<true>", 0, 8,
                        "reads 16 bytes of global memory out of bounds: bytes [128, 144) of in", "copy"}), in);
    LRK_CHECK(writes_an_input, 1, 32, 0,
              (Expected{"writes_an_input<true>", 0, 0, "writes bytes [0, 4) of in, which the launch may only read",
                        "input"}), in, out);
    const std::vector<float> host(64);
    LRK_CHECK(reads_the_host, 1, 32, 0,
              (Expected{"reads_the_host<true>", 0, 0, "out of bounds: no operand of the launch is near", "host"}), in,
              host.data(), out);
    LRK_CHECK(shares_a_local, 1, 32, 256,
              (Expected{"shares_a_local<true>", 0, 31, "out of bounds: no operand of the launch is near", "local"}),
              out);
    expect_silence(start(reads_constants, dim3(1), dim3(32), 0, Large{}, in, out), "reads_constants");
  }
  GlobalMemory memory;
  MutableMatrixView matrix{out, DType::kFloat32, 4, 6, 8, 1};
  memory.writes(matrix, "matrix");
  LRK_CHECK(writes_between_rows, 1, 32, 0,
            (Expected{"writes_between_rows<true>", 0, 6,
                      "writes 4 bytes of global memory out of bounds: bytes [24, 28) of matrix lie between its lines",
                      "padding"}), out);
  memory.writes(in, 528, "in");
  LRK_CHECK(misaligns, 1, 32, 0, (Expected{"misaligns<true>", 0, 9, "not a multiple of 16", "vector"}), in);
}

void test_races() {
  float* const buffer = storage();
  float* const out = storage() + 256;
  GlobalMemory memory;
  memory.writes(buffer, 1024, "buffer").writes(out, 1024, "out");
  LRK_CHECK(races_in_a_block, 1, 64, 0,
            (Expected{"races_in_a_block<true>", 0, 1, "data race: reads bytes [0, 4) of buffer, which thread 0 writes",
                      "block read", "block write"}), buffer);
  // Which of two blocks comes later is chance; the report names the other.
  const Status two = start(races_between_writers<true>, dim3(2), dim3(32), 0, out);
  expect(mentions(two, "a data race: writes bytes [0, 4) of out, which thread 3 of block ("),
         "two blocks that write the same bytes are found");
  expect(mentions(two, line_with(__FILE__, "two blocks")), "with the line");
  expect_silence(start(races_between_writers<false>, dim3(8), dim3(32), 0, out), "races_between_writers");
  const Status mixed = start(races_with_a_reader<true>, dim3(2), dim3(32), 0, buffer, out);
  expect(mentions(mixed, "a data race: "), "a block that reads what another writes is found");
  expect(mentions(mixed, line_with(__FILE__, "writing block")) && mentions(mixed, line_with(__FILE__, "reading block")),
         "with both lines");
  expect_silence(start(races_with_a_reader<false>, dim3(2), dim3(32), 0, buffer, out), "races_with_a_reader");
  unsigned value = 0, *count = &value;
  memory.writes(count, sizeof(value), "count");
  LaunchConfig together(dim3(7), dim3(32), 0, Context{});
  together.cooperative = true;
  expect_report(__FILE__, launch(races_with_the_last_reader<true>, together, buffer, count, out),
                {"races_with_the_last_reader<true>", 6, 0,
                 "a data race: writes bytes [0, 4) of buffer, which thread 0 of block (3, 0, 0) reads",
                 "after the readers", "one of the readers"});
  value = 0;
  expect_silence(launch(races_with_the_last_reader<false>, together, buffer, count, out), "races_with_the_last_reader");
  auto* const bytes = reinterpret_cast<uint8_t*>(buffer);
  const Status byte = start(races_for_a_byte<true>, dim3(8), dim3(32), 0, bytes);
  expect(mentions(byte, "a data race: writes bytes [4, 5) of buffer, which thread 7 of block (") &&
             mentions(byte, line_with(__FILE__, "byte")), "two blocks that write the same byte are found");
  expect_silence(start(races_for_a_byte<false>, dim3(8), dim3(32), 0, bytes), "races_for_a_byte");
}

void test_constant_reads() {
  auto* const in = reinterpret_cast<uint16_t*>(storage());
  auto* const out = reinterpret_cast<uint16_t*>(storage() + 256);
  GlobalMemory memory;
  memory.reads(in, 128, "in").writes(out, 128, "out");
  LRK_CHECK(reads_as_constant_after, 1, 64, 0,
            (Expected{"reads_as_constant_after<true>", 0, 63,
                      "reads bytes [126, 127) of out by ld.global.nc, which the same launch writes; written by thread "
                      "63",
                      "nc after", "written before nc"}), in, out);
  LRK_CHECK(reads_as_constant_before, 1, 64, 0,
            (Expected{"reads_as_constant_before<true>", 0, 63,
                      "writes bytes [126, 127) of out, which the same launch reads by ld.global.nc; read by thread 62",
                      "written after nc", "nc before"}), in, out);
}

void test_flags() {
  float* const data = storage();
  float* const out = storage() + 256;
  unsigned value = 0, *flag = &value;
  GlobalMemory memory;
  memory.writes(data, 1024, "data").writes(out, 1024, "out").writes(flag, 4, "flag");
  const auto pass = [&](void (*kernel)(float*, unsigned*, float*)) {
    value = 0;
    return start(kernel, dim3(2), dim3(64), 0, data, flag, out);
  };
  expect_silence(pass(passes_a_flag<Flag::kReleaseAcquire>), "release and acquire");
  expect_silence(pass(passes_a_flag<Flag::kFences>), "fences around relaxed operations");
  struct {
    void (*kernel)(float*, unsigned*, float*);
    const char* what;
  } const bugs[] = {{passes_a_flag<Flag::kRelaxed>, "relaxed operations without a fence"},
                    {passes_a_flag<Flag::kFencesOfABlock>, "fences of too narrow a scope"},
                    {passes_a_flag<Flag::kNoAcquire>, "a release that nobody acquires"},
                    {passes_a_flag<Flag::kFenceBeforeBarrier>, "a fence before the barrier, not after it"}};
  for (const auto& bug : bugs) {
    const Status status = pass(bug.kernel);
    const bool found = mentions(status, "a data race: reads bytes [") && mentions(status, "of data, which thread ") &&
                       mentions(status, line_with(__FILE__, "reads data")) &&
                       mentions(status, line_with(__FILE__, "data")) && mentions(status, "block (1, 0, 0)");
    expect(found, std::string(bug.what) + ": is reported");
  }

  const Status mixed = start(mixes_atomic_and_plain<true>, dim3(2), dim3(32), 0, flag);
  expect(mentions(mixed, "a data race: writes bytes [0, 4) of flag"), "a plain write among atomics is found");
  expect(mentions(mixed, line_with(__FILE__, "plain")) && mentions(mixed, line_with(__FILE__, "atomic")),
         "with both lines");
  expect_silence(start(mixes_atomic_and_plain<false>, dim3(2), dim3(32), 0, flag), "mixes_atomic_and_plain");

  LaunchConfig config(dim3(4), dim3(32), 0, Context{});
  config.cooperative = true;
  value = 0;
  expect_report(__FILE__, launch(two_phases<true>, config, data, flag, out),
                {"two_phases<true>", 3, 31, "data race: reads bytes [124, 128) of data, which thread 31 of block "
                 "(0, 0, 0) writes", "second phase", "first phase"});
  value = 0;
  expect_silence(launch(two_phases<false>, config, data, flag, out), "two_phases");
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_accesses();
  lrk::test_lifetimes();
  lrk::test_bounds();
  lrk::test_races();
  lrk::test_constant_reads();
  lrk::test_flags();
  return lrk::testing::report();
}
