// cvt: one value, or one pair, a thread.
#include "device/conformance/case.cuh"
#include "device/ptx/convert.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {
namespace {

constexpr unsigned kThreads = 128;

__global__ void pack_bf16x2(Operands operands) {
  const float* pair = operands.in<float>(0) + 2 * threadIdx.x;
  operands.out<uint32_t>()[threadIdx.x] = ptx::pack_bf16x2(pair[0], pair[1]);
}

__global__ void pack_f16x2(Operands operands) {
  const float* pair = operands.in<float>(0) + 2 * threadIdx.x;
  operands.out<uint32_t>()[threadIdx.x] = ptx::pack_f16x2(pair[0], pair[1]);
}

__global__ void round_to_tf32(Operands operands) {
  operands.out<uint32_t>()[threadIdx.x] = ptx::round_to_tf32(operands.in<float>(0)[threadIdx.x]);
}

__global__ void unpack_bf16(Operands operands) {
  operands.out<float>()[threadIdx.x] = ptx::unpack_bf16(operands.in<uint16_t>(0)[threadIdx.x]);
}

__global__ void unpack_f16(Operands operands) {
  operands.out<float>()[threadIdx.x] = ptx::unpack_f16(operands.in<uint16_t>(0)[threadIdx.x]);
}

const Case kCases[] = {
    {"pack_bf16x2", pack_bf16x2, kThreads, {8 * kThreads}, 4 * kThreads},
    {"pack_f16x2", pack_f16x2, kThreads, {8 * kThreads}, 4 * kThreads},
    {"round_to_tf32", round_to_tf32, kThreads, {4 * kThreads}, 4 * kThreads},
    {"unpack_bf16", unpack_bf16, kThreads, {2 * kThreads}, 4 * kThreads},
    {"unpack_f16", unpack_f16, kThreads, {2 * kThreads}, 4 * kThreads},
};

}  // namespace

Table conversion_cases() { return table_of(kCases); }

}  // namespace conformance
}  // namespace LRK_TARGET
}  // namespace lrk
