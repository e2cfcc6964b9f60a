// mma and mma.sp by one warp. Inputs are the registers of every lane, lane by lane: A, B, C (and metadata).
#include "device/conformance/case.cuh"
#include "device/ptx/mma.cuh"
#include "device/ptx/mma_sparse.cuh"
#include "device/ptx/mma_tf32.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {
namespace {

constexpr unsigned kWarp = 32;

template <int kWords, class T>
__device__ __forceinline__ void load_registers(T (&registers)[kWords], const T* lanes) {
  for (int i = 0; i < kWords; ++i) registers[i] = lanes[threadIdx.x * kWords + i];
}

__device__ __forceinline__ void store_accumulators(const Operands& operands, const float (&d)[4]) {
  for (int i = 0; i < 4; ++i) operands.out<float>()[threadIdx.x * 4 + i] = d[i];
}

template <class T>
__global__ void mma_m16n8k16(Operands operands) {
  uint32_t a[4], b[2];
  float d[4];
  load_registers(a, operands.in<uint32_t>(0)), load_registers(b, operands.in<uint32_t>(1));
  load_registers(d, operands.in<float>(2));
  ptx::mma_m16n8k16<T>(d, a, b[0], b[1]);
  store_accumulators(operands, d);
}

__global__ void mma_m16n8k8_tf32(Operands operands) {
  uint32_t a[4], b[2];
  float d[4];
  load_registers(a, operands.in<uint32_t>(0)), load_registers(b, operands.in<uint32_t>(1));
  load_registers(d, operands.in<float>(2));
  ptx::mma_m16n8k8_tf32(d, a, b[0], b[1]);
  store_accumulators(operands, d);
}

template <class T, int kSelector>
__global__ void mma_sp_m16n8k32(Operands operands) {
  uint32_t a[4], b[4];
  float d[4];
  load_registers(a, operands.in<uint32_t>(0)), load_registers(b, operands.in<uint32_t>(1));
  load_registers(d, operands.in<float>(2));
  ptx::mma_sp_m16n8k32<T, kSelector>(d, a, b, operands.in<uint32_t>(3)[threadIdx.x]);
  store_accumulators(operands, d);
}

constexpr Case dense(const char* name, Kernel kernel) {
  return {name, kernel, kWarp, {16 * kWarp, 8 * kWarp, 16 * kWarp}, 16 * kWarp};
}
constexpr Case sparse(const char* name, Kernel kernel) {
  return {name, kernel, kWarp, {16 * kWarp, 16 * kWarp, 16 * kWarp, 4 * kWarp}, 16 * kWarp};
}

const Case kCases[] = {
    dense("mma_m16n8k16.bf16", mma_m16n8k16<BFloat16>),
    dense("mma_m16n8k16.f16", mma_m16n8k16<Float16>),
    dense("mma_m16n8k8_tf32", mma_m16n8k8_tf32),
    sparse("mma_sp_m16n8k32.bf16.selector0", mma_sp_m16n8k32<BFloat16, 0>),
    sparse("mma_sp_m16n8k32.bf16.selector1", mma_sp_m16n8k32<BFloat16, 1>),
    sparse("mma_sp_m16n8k32.f16.selector0", mma_sp_m16n8k32<Float16, 0>),
    sparse("mma_sp_m16n8k32.f16.selector1", mma_sp_m16n8k32<Float16, 1>),
};

}  // namespace

Table product_cases() { return table_of(kCases); }

}  // namespace conformance
}  // namespace LRK_TARGET
}  // namespace lrk
