// ldmatrix and stmatrix by one warp. `row` is a permutation of the rows of kCount 8x8 matrices that lie one after the
// other in shared memory: lane i gives the address of row row[i].
#include "device/conformance/case.cuh"
#include "device/ptx/ldmatrix.cuh"
#include "device/ptx/stmatrix.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {
namespace {

constexpr unsigned kWarp = 32, kRowBytes = 16;

/// Lanes beyond the last row give the address of a row of their choice, which is not used.
template <int kCount>
__device__ uint32_t row_address(const Operands& operands) {
  return ptx::shared_address(dynamic_shared<uint16_t>()) +
         kRowBytes * operands.in<uint32_t>(1)[threadIdx.x % (8 * kCount)];
}

template <int kCount, bool kTransposed>
__global__ void ldmatrix(Operands operands) {
  uint16_t* shared = dynamic_shared<uint16_t>();
  for (int i = int(threadIdx.x); i < 64 * kCount; i += kWarp) shared[i] = operands.in<uint16_t>(0)[i];
  __syncthreads();
  uint32_t fragment[kCount];
  if constexpr (kCount == 1) ptx::ldmatrix_x1<kTransposed>(fragment, row_address<kCount>(operands));
  if constexpr (kCount == 2) ptx::ldmatrix_x2<kTransposed>(fragment, row_address<kCount>(operands));
  if constexpr (kCount == 4) ptx::ldmatrix_x4<kTransposed>(fragment, row_address<kCount>(operands));
  for (int i = 0; i < kCount; ++i) operands.out<uint32_t>()[threadIdx.x * kCount + i] = fragment[i];
}

template <int kCount, bool kTransposed>
__global__ void stmatrix(Operands operands) {
  uint32_t fragment[kCount];
  for (int i = 0; i < kCount; ++i) fragment[i] = operands.in<uint32_t>(0)[threadIdx.x * kCount + i];
  if constexpr (kCount == 1) ptx::stmatrix_x1<kTransposed>(row_address<kCount>(operands), fragment);
  if constexpr (kCount == 2) ptx::stmatrix_x2<kTransposed>(row_address<kCount>(operands), fragment);
  if constexpr (kCount == 4) ptx::stmatrix_x4<kTransposed>(row_address<kCount>(operands), fragment);
  __syncthreads();
  const uint16_t* shared = dynamic_shared<uint16_t>();
  for (int i = int(threadIdx.x); i < 64 * kCount; i += kWarp) operands.out<uint16_t>()[i] = shared[i];
}

template <int kCount, bool kTransposed>
constexpr Case load_case(const char* name) {
  return {name, ldmatrix<kCount, kTransposed>, kWarp, {128 * kCount, 32 * kCount}, 128 * kCount, 128 * kCount};
}
template <int kCount, bool kTransposed>
constexpr Case store_case(const char* name) {
  return {name, stmatrix<kCount, kTransposed>, kWarp, {128 * kCount, 32 * kCount}, 128 * kCount, 128 * kCount};
}

const Case kCases[] = {
    load_case<1, false>("ldmatrix_x1"),        load_case<2, false>("ldmatrix_x2"),
    load_case<4, false>("ldmatrix_x4"),        load_case<1, true>("ldmatrix_x1.trans"),
    load_case<2, true>("ldmatrix_x2.trans"),   load_case<4, true>("ldmatrix_x4.trans"),
    store_case<1, false>("stmatrix_x1"),       store_case<2, false>("stmatrix_x2"),
    store_case<4, false>("stmatrix_x4"),       store_case<1, true>("stmatrix_x1.trans"),
    store_case<2, true>("stmatrix_x2.trans"),  store_case<4, true>("stmatrix_x4.trans"),
};

}  // namespace

Table matrix_cases() { return table_of(kCases); }

}  // namespace conformance
}  // namespace LRK_TARGET
}  // namespace lrk
