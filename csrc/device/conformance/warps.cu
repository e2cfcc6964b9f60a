// Warp-wide intrinsics of CUDA C++, by one warp. An input named `mask` splits the warp in two: the lanes in it meet
// with it, the other lanes with its complement.
#include "device/conformance/case.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {
namespace {

constexpr unsigned kWarp = 32;

/// The mask this lane meets with.
__device__ __forceinline__ unsigned own_mask(const Operands& operands, int input) {
  const unsigned mask = operands.in<uint32_t>(input)[0];
  return (mask >> threadIdx.x & 1) != 0 ? mask : ~mask;
}

/// Any lane of the same part of the warp may be the source.
template <class T>
__global__ void shuffle(Operands operands) {
  const T value = operands.in<T>(0)[threadIdx.x];
  operands.out<T>()[threadIdx.x] =
      __shfl_sync(own_mask(operands, 2), value, operands.in<int>(1)[threadIdx.x]);
}

template <class T>
__global__ void shuffle_xor(Operands operands) {
  operands.out<T>()[threadIdx.x] =
      __shfl_xor_sync(0xffffffffu, operands.in<T>(0)[threadIdx.x], operands.in<int>(1)[0]);
}

template <class T>
__global__ void shuffle_down(Operands operands) {
  operands.out<T>()[threadIdx.x] =
      __shfl_down_sync(0xffffffffu, operands.in<T>(0)[threadIdx.x], operands.in<unsigned>(1)[0]);
}

template <class T>
__global__ void shuffle_up(Operands operands) {
  operands.out<T>()[threadIdx.x] =
      __shfl_up_sync(0xffffffffu, operands.in<T>(0)[threadIdx.x], operands.in<unsigned>(1)[0]);
}

/// Groups of `width` lanes, a power of two, that shuffle among themselves.
__global__ void shuffle_width(Operands operands) {
  const uint32_t value = operands.in<uint32_t>(0)[threadIdx.x];
  const int source = operands.in<int>(1)[threadIdx.x], width = operands.in<int>(2)[0];
  const int lane_mask = operands.in<int>(2)[1];
  const unsigned delta = operands.in<unsigned>(2)[2];
  uint32_t* result = operands.out<uint32_t>() + 4 * threadIdx.x;
  result[0] = __shfl_sync(0xffffffffu, value, source, width);
  result[1] = __shfl_up_sync(0xffffffffu, value, delta, width);
  result[2] = __shfl_down_sync(0xffffffffu, value, delta, width);
  result[3] = __shfl_xor_sync(0xffffffffu, value, lane_mask, width);
}

/// Of each lane: the ballot, whether any and whether all of its part of the warp vote for.
__global__ void votes(Operands operands) {
  const int predicate = operands.in<int>(0)[threadIdx.x];
  const unsigned mask = own_mask(operands, 1);
  uint32_t* result = operands.out<uint32_t>() + 3 * threadIdx.x;
  result[0] = __ballot_sync(mask, predicate);
  result[1] = uint32_t(__any_sync(mask, predicate) != 0);
  result[2] = uint32_t(__all_sync(mask, predicate) != 0);
}

/// The lanes with the same value, and the same if all lanes have it (else no lanes and 0).
template <class T>
__global__ void match(Operands operands) {
  const T value = operands.in<T>(0)[threadIdx.x];
  const unsigned mask = own_mask(operands, 1);
  int all_same = -1;
  uint32_t* result = operands.out<uint32_t>() + 3 * threadIdx.x;
  result[0] = __match_any_sync(mask, value);
  result[1] = __match_all_sync(mask, value, &all_same);
  result[2] = uint32_t(all_same != 0);
}

/// redux.sync.
__global__ void reduce(Operands operands) {
  const uint32_t value = operands.in<uint32_t>(0)[threadIdx.x];
  const unsigned mask = own_mask(operands, 1);
  uint32_t* result = operands.out<uint32_t>() + 9 * threadIdx.x;
  result[0] = __reduce_add_sync(mask, value);
  result[1] = __reduce_min_sync(mask, value);
  result[2] = __reduce_max_sync(mask, value);
  result[3] = uint32_t(__reduce_add_sync(mask, int(value)));
  result[4] = uint32_t(__reduce_min_sync(mask, int(value)));
  result[5] = uint32_t(__reduce_max_sync(mask, int(value)));
  result[6] = __reduce_and_sync(mask, value);
  result[7] = __reduce_or_sync(mask, value);
  result[8] = __reduce_xor_sync(mask, value);
}

/// __syncwarp orders shared memory between the lanes that meet.
__global__ void sync_warp(Operands operands) {
  uint32_t* shared = dynamic_shared<uint32_t>();
  shared[threadIdx.x] = operands.in<uint32_t>(0)[threadIdx.x];
  __syncwarp(own_mask(operands, 2));
  operands.out<uint32_t>()[threadIdx.x] = shared[operands.in<uint32_t>(1)[threadIdx.x]];
}

const Case kCases[] = {
    {"shuffle.32", shuffle<uint32_t>, kWarp, {4 * kWarp, 4 * kWarp, 4}, 4 * kWarp},
    {"shuffle.64", shuffle<double>, kWarp, {8 * kWarp, 4 * kWarp, 4}, 8 * kWarp},
    {"shuffle_xor.32", shuffle_xor<uint32_t>, kWarp, {4 * kWarp, 4}, 4 * kWarp},
    {"shuffle_xor.64", shuffle_xor<double>, kWarp, {8 * kWarp, 4}, 8 * kWarp},
    {"shuffle_down.32", shuffle_down<uint32_t>, kWarp, {4 * kWarp, 4}, 4 * kWarp},
    {"shuffle_down.64", shuffle_down<double>, kWarp, {8 * kWarp, 4}, 8 * kWarp},
    {"shuffle_up.32", shuffle_up<uint32_t>, kWarp, {4 * kWarp, 4}, 4 * kWarp},
    {"shuffle_up.64", shuffle_up<double>, kWarp, {8 * kWarp, 4}, 8 * kWarp},
    {"shuffle_width", shuffle_width, kWarp, {4 * kWarp, 4 * kWarp, 12}, 16 * kWarp},
    {"votes", votes, kWarp, {4 * kWarp, 4}, 12 * kWarp},
    {"match.32", match<uint32_t>, kWarp, {4 * kWarp, 4}, 12 * kWarp},
    {"match.64", match<uint64_t>, kWarp, {8 * kWarp, 4}, 12 * kWarp},
    {"reduce", reduce, kWarp, {4 * kWarp, 4}, 36 * kWarp},
    {"sync_warp", sync_warp, kWarp, {4 * kWarp, 4 * kWarp, 4}, 4 * kWarp, 4 * kWarp},
};

}  // namespace

Table warp_cases() { return table_of(kCases); }

}  // namespace conformance
}  // namespace LRK_TARGET
}  // namespace lrk
