// The emulated device itself: thread and block indices, barriers, shuffles, cp.async that lands as late as it may,
// ldmatrix and mma against fragment tables written here from the PTX manual, conversions, and the faults it reports.
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "device/numeric.cuh"
#include "device/ptx/cp_async.cuh"
#include "device/ptx/ldmatrix.cuh"
#include "device/ptx/mma.cuh"
#include "device/smem.cuh"
#include "device/tile.cuh"
#include "emulator_test.h"

namespace lrk {
namespace {

using namespace testing;

// --- Indices and barriers.

void index_kernel(std::atomic<int>* visits) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  ++visits[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

void test_indices() {
  std::vector<std::atomic<int>> visits(3 * 2 * 5 * 64);
  expect(start(index_kernel, dim3(3, 2, 5), dim3(8, 4, 2), 0, visits.data()).ok(), "a 3-D launch runs");
  bool once = true;
  for (const auto& visit : visits) once = once && visit == 1;
  expect(once, "every thread of every block runs once");
}

/// Sum of 0 .. n - 1 by a tree in shared memory; every level needs the barrier of the one before.
void tree_kernel(float* sums) {
  float* shared = dynamic_shared<float>();
  const int thread = int(threadIdx.x);
  shared[thread] = float(thread) * float(blockIdx.x + 1);
  __syncthreads();
  for (int half = int(blockDim.x) / 2; half > 0; half /= 2) {
    if (thread < half) shared[thread] += shared[thread + half];
    __syncthreads();
  }
  if (thread == 0) sums[blockIdx.x] = shared[0];
}

void test_barriers() {
  std::vector<float> sums(37);
  expect(start(tree_kernel, dim3(37), dim3(1024), 4096, sums.data()).ok(), "1024 threads run");
  bool right = true;
  for (size_t i = 0; i < sums.size(); ++i) right = right && sums[i] == 1024.0f * 1023.0f / 2 * float(i + 1);
  expect(right, "__syncthreads orders shared memory");
}

// --- Shuffles.

void shuffle_kernel(int* results) {
  const int lane = int(threadIdx.x) % 32, value = 1000 + int(threadIdx.x);
  int* mine = results + threadIdx.x * 5;
  mine[0] = __shfl_xor_sync(0xffffffffu, value, 5);
  mine[1] = __shfl_down_sync(0xffffffffu, value, 3u);
  mine[2] = __shfl_sync(0xffffffffu, value, (lane * 7) % 32);
  // Both halves of the warp are in flight with masks of their own, in different operations.
  if (lane < 16)
    mine[3] = __shfl_xor_sync(0x0000ffffu, value, 1);
  else
    mine[3] = __shfl_sync(0xffff0000u, value, 16);
  __syncwarp();
  mine[4] = int(__shfl_xor_sync(0xffffffffu, double(value), 16));
}

void test_shuffles() {
  std::vector<int> results(64 * 5);
  expect(start(shuffle_kernel, dim3(1), dim3(64), 0, results.data()).ok(), "shuffles run");
  bool right = true;
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32, first = 1000 + thread - lane;
    const int* mine = &results[size_t(thread) * 5];
    right = right && mine[0] == first + (lane ^ 5) && mine[1] == first + (lane + 3 < 32 ? lane + 3 : lane) &&
            mine[2] == first + lane * 7 % 32 && mine[3] == (lane < 16 ? first + (lane ^ 1) : first + 16) &&
            mine[4] == first + (lane ^ 16);
  }
  expect(right, "shuffles move the right lanes");
}

// --- cp.async.

/// What is visible before any wait, after a wait that leaves one group, and after a wait for all.
void async_kernel(const uint32_t* source, uint32_t* seen) {
  auto* shared = dynamic_shared<uint32_t>();
  const uint32_t address = ptx::shared_address(shared);
  if (threadIdx.x != 0) return;
  ptx::cp_async<16>(address, source, 16);
  ptx::cp_async_commit();
  ptx::cp_async<8>(address + 16, source + 4, 6);  // 6 bytes and two zeros
  ptx::cp_async<4>(address + 24, source, 0);      // nothing but zeros
  ptx::cp_async_commit();
  std::memcpy(seen, shared, 28);
  ptx::cp_async_wait<1>();
  std::memcpy(seen + 7, shared, 28);
  ptx::cp_async_wait<0>();
  std::memcpy(seen + 14, shared, 28);
  ptx::cp_async<4>(address, source + 5, 4);  // never committed
  ptx::cp_async_wait<0>();
  seen[21] = shared[0];
  ptx::cp_async_wait_all();
  seen[22] = shared[0];
}

void test_async_copies() {
  alignas(16) const uint32_t source[6] = {11, 12, 13, 14, 15, 0xabcd1234u};
  std::vector<uint32_t> seen(23);
  expect(start(async_kernel, dim3(1), dim3(32), 28, source, seen.data()).ok(), "cp.async runs");
  bool poison = true;
  for (int i = 0; i < 7; ++i) poison = poison && seen[size_t(i)] == 0xffffffffu;
  expect(poison, "before a wait shared memory is still poison");
  expect(seen[7] == 11 && seen[10] == 14 && seen[11] == 0xffffffffu, "wait_group 1 completes all but the last group");
  expect(seen[14 + 4] == 15 && seen[14 + 5] == 0x1234u, "a short source is filled with zeros");
  expect(seen[14 + 6] == 0, "an empty source gives zeros");
  expect(seen[21] == 11, "wait_group does not complete what was not committed");
  expect(seen[22] == 0xabcd1234u, "wait_all does");
}

// --- ldmatrix, against the manual's figure: thread T holds elements (T / 4, 2 (T % 4)) and the next of each matrix.

template <int kCount, bool kTransposed>
void ldmatrix_kernel(const uint16_t* source, uint32_t* fragments) {
  auto* shared = dynamic_shared<uint16_t>();
  for (int i = int(threadIdx.x); i < kCount * 64; i += 32) shared[i] = source[i];
  __syncthreads();
  const int lane = int(threadIdx.x);
  const uint32_t address = ptx::shared_address(shared) + uint32_t(lane % (8 * kCount)) * 16;  // rows in order
  uint32_t fragment[kCount];
  if constexpr (kCount == 1) ptx::ldmatrix_x1<kTransposed>(fragment, address);
  if constexpr (kCount == 2) ptx::ldmatrix_x2<kTransposed>(fragment, address);
  if constexpr (kCount == 4) ptx::ldmatrix_x4<kTransposed>(fragment, address);
  std::memcpy(fragments + lane * kCount, fragment, sizeof(fragment));
}

template <int kCount, bool kTransposed>
void test_ldmatrix() {
  std::vector<uint16_t> source(kCount * 64);
  for (size_t i = 0; i < source.size(); ++i) source[i] = uint16_t(i * 17 + 3);
  std::vector<uint32_t> fragments(32 * kCount);
  expect(start(ldmatrix_kernel<kCount, kTransposed>, dim3(1), dim3(32), kCount * 128, source.data(), fragments.data())
             .ok(), "ldmatrix runs");
  bool right = true;
  for (int matrix = 0; matrix < kCount; ++matrix)
    for (int row = 0; row < 8; ++row)
      for (int col = 0; col < 8; ++col) {
        const int i = kTransposed ? col : row, j = kTransposed ? row : col;  // place in the held matrix
        const uint32_t word = fragments[size_t((4 * i + j / 2) * kCount + matrix)];
        right = right && uint16_t(word >> (16 * (j % 2))) == source[size_t(matrix * 64 + row * 8 + col)];
      }
  expect(right, "ldmatrix deals elements as the manual draws");
}

// --- mma.m16n8k16. Tables of PTX ISA "Matrix Fragments for mma.m16n8k16 with floating point type".

struct Place {
  int row, col;
};
Place place_a(int lane, int i) {  // a0 .. a7
  const int group = lane >> 2, in_group = lane % 4;
  const bool upper = i == 0 || i == 1 || i == 4 || i == 5;
  return {upper ? group : group + 8, i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8};
}
Place place_b(int lane, int i) {  // b0 .. b3
  return {i < 2 ? lane % 4 * 2 + (i & 1) : lane % 4 * 2 + (i & 1) + 8, lane >> 2};
}
Place place_c(int lane, int i) {  // c0 .. c3
  return {i < 2 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 2 + (i & 1)};
}

template <class T>
void mma_kernel(const uint16_t* a, const uint16_t* b, float* c) {
  const int lane = int(threadIdx.x);
  uint32_t held_a[4], held_b[2];
  float held_c[4];
  std::memcpy(held_a, a + lane * 8, 16);
  std::memcpy(held_b, b + lane * 4, 8);
  std::memcpy(held_c, c + lane * 4, 16);
  ptx::mma_m16n8k16<T>(held_c, held_a, held_b[0], held_b[1]);
  std::memcpy(c + lane * 4, held_c, 16);
}

template <class T>
void test_mma() {
  // Small integers: every product and sum is exact in any order.
  int matrix_a[16][16], matrix_b[16][8], matrix_c[16][8];
  unsigned state = 12345;
  const auto draw = [&] { return int((state = state * 1664525u + 1013904223u) >> 24) % 17 - 8; };
  for (auto& row : matrix_a) for (int& value : row) value = draw();
  for (auto& row : matrix_b) for (int& value : row) value = draw();
  for (auto& row : matrix_c) for (int& value : row) value = draw();
  std::vector<uint16_t> a(32 * 8), b(32 * 4);
  std::vector<float> c(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      const Place place = place_a(lane, i);
      a[size_t(lane * 8 + i)] = from_float<T>(float(matrix_a[place.row][place.col])).bits;
    }
    for (int i = 0; i < 4; ++i) {
      const Place at_b = place_b(lane, i), at_c = place_c(lane, i);
      b[size_t(lane * 4 + i)] = from_float<T>(float(matrix_b[at_b.row][at_b.col])).bits;
      c[size_t(lane * 4 + i)] = float(matrix_c[at_c.row][at_c.col]);
    }
  }
  expect(start(mma_kernel<T>, dim3(1), dim3(32), 0, a.data(), b.data(), c.data()).ok(), "mma runs");
  bool right = true;
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const Place place = place_c(lane, i);
      int sum = matrix_c[place.row][place.col];
      for (int k = 0; k < 16; ++k) sum += matrix_a[place.row][k] * matrix_b[k][place.col];
      right = right && c[size_t(lane * 4 + i)] == float(sum);
    }
  expect(right, "mma.m16n8k16 follows the manual's fragment tables");
}

// --- The tile swizzle: ldmatrix reads eight consecutive lines at one chunk, which must lie in eight bank groups.

template <int kLines, int kLength>
void test_swizzle() {
  using Tile = SharedTile<kLines, kLength>;
  bool conflict_free = true;
  std::vector<int> used(Tile::kChunks);
  for (int line = 0; line < kLines; line += 8)
    for (int chunk = 0; chunk < Tile::kChunksPerLine; ++chunk) {
      unsigned banks = 0;
      for (int i = 0; i < 8; ++i) {
        const uint32_t offset = Tile::offset(line + i, chunk);
        banks |= 1u << (offset / 16 % 8);
        ++used[offset / 16];
      }
      conflict_free = conflict_free && banks == 0xff;
    }
  expect(conflict_free, "eight lines of a tile lie in eight bank groups");
  bool bijective = true;
  for (const int count : used) bijective = bijective && count == 1;
  expect(bijective, "every chunk of a tile has a place of its own");
}

// --- Conversions, against a search for the nearest value in double.

template <class T>
void test_conversions(int mantissa_bits, int min_exponent, double largest) {
  bool round_trip = true, nearest = true;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = to_float(T{uint16_t(bits)});
    if (std::isnan(value)) continue;
    round_trip = round_trip && from_float<T>(value).bits == bits;
  }
  expect(round_trip, "a 16-bit value survives the way to float and back");
  uint64_t state = 99;
  for (int i = 0; i < 200000; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    uint32_t bits = uint32_t(state >> 32);
    if (i % 3 == 0) bits = (bits & 0x8fffffffu) | 0x30000000u;  // around 1e-9 .. 10, where f16 underflows
    if (i % 7 == 0) bits &= ~((1u << (23 - mantissa_bits - 1)) - 1);  // many ties
    float value;
    std::memcpy(&value, &bits, 4);
    if (!std::isfinite(value) || std::fabs(value) > largest) continue;
    int exponent;
    std::frexp(double(value), &exponent);
    const double step = std::ldexp(1.0, std::max(exponent - 1, min_exponent) - mantissa_bits);
    const double expected = std::nearbyint(double(value) / step) * step;  // ties to even
    nearest = nearest && double(to_float(from_float<T>(value))) == expected;
  }
  expect(nearest, "float rounds to the nearest 16-bit value, ties to even");
  expect(std::isinf(to_float(from_float<T>(INFINITY))) && std::isnan(to_float(from_float<T>(NAN))),
         "infinity and NaN keep their kind");
}

// --- Faults.

void out_of_bounds_kernel() { ptx::load_shared_16(ptx::shared_address(dynamic_shared<char>()) + 64); }
void misaligned_kernel() { ptx::load_shared_16(ptx::shared_address(dynamic_shared<char>()) + 8); }
void missing_thread_kernel() {
  if (threadIdx.x != 7) __syncthreads();
}
void half_warps_kernel() {
  if (threadIdx.x % 32 < 16) emulator::barrier_sync(1, 32);
}
void mixed_operations_kernel() {
  if (threadIdx.x % 2 == 0)
    __syncwarp();
  else
    __shfl_xor_sync(0xffffffffu, 1, 1);
}
void foreign_lane_kernel() {
  if (threadIdx.x < 4) __shfl_xor_sync(0x0000000fu, 1, 8);
}
void past_the_end_kernel() {
  if (threadIdx.x == 0) static_cast<volatile char*>(dynamic_shared<char>())[100] = 1;
}
void unwritten_kernel(float* value) {
  if (threadIdx.x == 0) *value = dynamic_shared<float>()[3];
}

void test_faults() {
  expect(mentions(start(out_of_bounds_kernel, dim3(1), dim3(32), 64), "past the end"), "a shared access past the end");
  expect(mentions(start(misaligned_kernel, dim3(1), dim3(32), 64), "not a multiple of 16"), "a misaligned access");
  expect(mentions(start(missing_thread_kernel, dim3(5), dim3(64), 0), "deadlock"), "a thread missing at a barrier");
  expect(mentions(start(half_warps_kernel, dim3(1), dim3(64), 0), "only lanes 0x0000ffff of warp 0 came"),
         "a barrier that counts halves of warps");
  expect(mentions(start(mixed_operations_kernel, dim3(1), dim3(32), 0), "different operations"), "a divergent warp");
  expect(mentions(start(foreign_lane_kernel, dim3(1), dim3(32), 0), "not in the mask"), "a shuffle from outside");
  expect(mentions(start(past_the_end_kernel, dim3(1), dim3(32), 100), "past the end"), "a plain write past the end");
  expect(start(past_the_end_kernel, dim3(1), dim3(32), 101).ok(), "the byte belongs to a larger shared memory");
  float value = 0.0f;
  expect(start(unwritten_kernel, dim3(1), dim3(32), 64, &value).ok() && std::isnan(value), "unwritten memory is NaN");
  std::vector<float> sums(2);
  expect(start(tree_kernel, dim3(2), dim3(64), 256, sums.data()).ok() && sums[0] == 2016.0f,
         "a fault does not outlive its launch");
}

// --- Launches that cannot be: kernel, number and whose rule it is.

void test_refusals() {
  const struct {
    dim3 grid, block;
    size_t shared_bytes;
    const char* reason;
  } launches[] = {
      {dim3(0), dim3(32), 0, "no blocks, the grid is (0, 1, 1) (a rule of every GPU)"},
      {dim3(1), dim3(8, 0), 0, "no threads, the block is (8, 0, 1) (a rule of every GPU)"},
      {dim3(1), dim3(16, 3), 0,
       "48 threads a block (16, 3, 1), not a multiple of 32 (a rule of the emulator, which knows whole warps only"},
      {dim3(1), dim3(1056), 0, "1056 threads a block (1056, 1, 1), at most 1024 (a rule of every GPU)"},
      {dim3(1), dim3(1, 1, 96), 0, "96 threads a block (1, 1, 96), at most 64 along z (a rule of every GPU)"},
      {dim3(1, 65536), dim3(32), 0, "the grid is (1, 65536, 1), at most (2147483647, 65535, 65535) (a rule of every"},
      {dim3(1), dim3(32), 1 << 20,
       "1048576 bytes of shared memory a block, at most 166912 (a limit of the emulated device, an sm_80 with 4"},
  };
  for (const auto& refused : launches) {
    const Status status = start(half_warps_kernel, refused.grid, refused.block, refused.shared_bytes);
    expect(mentions(status, std::string("kernel half_warps_kernel: invalid launch: ") + refused.reason),
           refused.reason);
  }
}

}  // namespace
}  // namespace lrk

int main() {
  using namespace lrk;
  test_indices();
  test_barriers();
  test_shuffles();
  test_async_copies();
  test_ldmatrix<1, false>(), test_ldmatrix<2, false>(), test_ldmatrix<4, false>();
  test_ldmatrix<1, true>(), test_ldmatrix<2, true>(), test_ldmatrix<4, true>();
  test_mma<BFloat16>(), test_mma<Float16>();
  test_swizzle<64, 16>(), test_swizzle<64, 32>(), test_swizzle<64, 64>(), test_swizzle<32, 128>();
  test_conversions<BFloat16>(7, -126, 3.3e38);
  test_conversions<Float16>(10, -14, 65504.0);
  test_faults();
  test_refusals();
  expect(multiprocessors(0) == 4, "the emulated device has four multiprocessors");
  return testing::report();
}
