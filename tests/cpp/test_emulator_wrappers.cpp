// What the PTX wrappers refuse: operands that the manual leaves undefined. What they compute is tested from Python, by
// the conformance table (tests/device).
#include "device/ptx/mma_sparse.cuh"
#include "device/ptx/stmatrix.cuh"
#include "device/smem.cuh"
#include "emulator_test.h"

namespace lrk {
namespace {

using testing::expect_silence;
using testing::mentions;
using testing::start;

/// Stores 8 rows of 16 bytes, the first of them `offset` bytes into shared memory.
template <bool kTransposed>
void store_rows(uint32_t offset) {
  const uint32_t fragment[1] = {threadIdx.x};
  const uint32_t rows = ptx::shared_address(dynamic_shared<unsigned char>());
  ptx::stmatrix_x1<kTransposed>(rows + offset + 16 * (threadIdx.x % 8), fragment);
}

template <bool kTransposed>
void test_stmatrix(const char* name) {
  const auto store = [](uint32_t offset) { return start(store_rows<kTransposed>, dim3(1), dim3(32), 144, offset); };
  expect_silence(store(16), name);
  testing::expect(mentions(store(8), "the address of a row is not a multiple of 16"), "a misaligned row");
  testing::expect(mentions(store(32), "past the end"), "a row outside of shared memory");
}

void multiply_sparse(uint32_t metadata, uint32_t ignored) {
  const uint32_t a[4] = {}, b[4] = {};
  float d[4] = {};
  ptx::mma_sp_m16n8k32<BFloat16, 1>(d, a, b, threadIdx.x % 4 >= 2 ? metadata : ignored);
}

void test_metadata() {
  const auto multiply = [](uint32_t metadata, uint32_t ignored) {
    return start(multiply_sparse, dim3(1), dim3(32), 0, metadata, ignored);
  };
  const uint32_t legal[] = {0x4, 0x8, 0x9, 0xc, 0xd, 0xe};  // the six that the manual lists
  for (uint32_t positions = 0; positions < 16; ++positions) {
    bool is_legal = false;
    for (const uint32_t one : legal) is_legal = is_legal || one == positions;
    // In one of the eight groups of four columns, the others being legal.
    const Status status = multiply(0x444404e4u | positions << 12, 0);
    if (is_legal)
      expect_silence(status, "metadata that the manual lists");
    else
      testing::expect(mentions(status, "mma.sp::ordered_metadata: the positions of a group do not increase"),
                      "metadata that the manual does not list");
  }
  expect_silence(multiply(0x44444444u, 0xffffffffu), "metadata of lanes that the selector leaves out");
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_stmatrix<false>("stmatrix");
  lrk::test_stmatrix<true>("stmatrix.trans");
  lrk::test_metadata();
  return lrk::testing::report();
}
