// Shared and global accesses, and cp.async. Inputs named `slot` are permutations: thread i writes or copies to place
// slot[i], so that an address that is off by anything shows.
#include "device/conformance/case.cuh"
#include "device/ptx/cp_async.cuh"
#include "device/ptx/memory.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {
namespace {

constexpr unsigned kThreads = 64;

__global__ void shared_16(Operands operands) {
  const uint32_t shared = ptx::shared_address(dynamic_shared<uint4>());
  ptx::store_shared_16(shared + 16 * operands.in<uint32_t>(1)[threadIdx.x], operands.in<uint4>(0)[threadIdx.x]);
  __syncthreads();
  operands.out<uint4>()[threadIdx.x] = ptx::load_shared_16(shared + 16 * threadIdx.x);
}

__global__ void shared_2(Operands operands) {
  uint16_t* shared = dynamic_shared<uint16_t>();
  ptx::store_shared_2(ptx::shared_address(shared + operands.in<uint32_t>(1)[threadIdx.x]),
                      operands.in<uint16_t>(0)[threadIdx.x]);
  __syncthreads();
  operands.out<uint16_t>()[threadIdx.x] = shared[threadIdx.x];
}

/// A predicate is any integer: not zero means that the element exists. Where it does not, nothing may be read, so the
/// address is one that no one may read.
__global__ void load_global_2(Operands operands) {
  const bool exists = operands.in<uint32_t>(1)[threadIdx.x] != 0;
  const void* address = exists ? operands.in<uint16_t>(0) + threadIdx.x : nullptr;
  operands.out<uint32_t>()[threadIdx.x] = ptx::load_global_2(address, exists);
}

/// Thread i copies `kept` bytes of its source and zeros to place slot[i], over what lay there.
template <int kBytes>
__global__ void cp_async(Operands operands) {
  unsigned char* shared = dynamic_shared<unsigned char>();
  for (int i = 0; i < kBytes; ++i) shared[threadIdx.x * kBytes + i] = 0xa5;
  __syncthreads();
  const uint32_t slot = operands.in<uint32_t>(1)[threadIdx.x], kept = operands.in<uint32_t>(2)[threadIdx.x];
  ptx::cp_async<kBytes>(ptx::shared_address(shared) + slot * kBytes,
                        operands.in<unsigned char>(0) + threadIdx.x * kBytes, int(kept));
  ptx::cp_async_wait_all();
  __syncthreads();
  for (int i = 0; i < kBytes; ++i)
    operands.out<unsigned char>()[threadIdx.x * kBytes + i] = shared[threadIdx.x * kBytes + i];
}

/// Four groups in flight, the third of them empty; what has landed after each wait is read after a barrier, which makes
/// it visible.
__global__ void cp_async_groups(Operands operands) {
  uint32_t* shared = dynamic_shared<uint32_t>();
  const uint32_t* source = operands.in<uint32_t>(0);
  const uint32_t slot = operands.in<uint32_t>(1)[threadIdx.x];
  uint32_t* seen = operands.out<uint32_t>();
  const auto copy = [&](unsigned row) {
    ptx::cp_async<4>(ptx::shared_address(shared + row * kThreads + slot), source + row * kThreads + threadIdx.x, 4);
  };
  const auto see = [&](unsigned row) {
    __syncthreads();
    seen[row * kThreads + threadIdx.x] = shared[row * kThreads + threadIdx.x];
  };
  copy(0), ptx::cp_async_commit();
  copy(1), copy(2), ptx::cp_async_commit();
  ptx::cp_async_commit();
  copy(3), ptx::cp_async_commit();
  ptx::cp_async_wait<3>();
  see(0);
  ptx::cp_async_wait<1>();
  see(1), see(2);
  copy(4);  // in no group: only wait_all waits for it
  ptx::cp_async_wait<0>();
  see(3);
  ptx::cp_async_wait_all();
  see(4);
}

const Case kCases[] = {
    {"shared_16", shared_16, kThreads, {16 * kThreads, 4 * kThreads}, 16 * kThreads, 16 * kThreads},
    {"shared_2", shared_2, kThreads, {2 * kThreads, 4 * kThreads}, 2 * kThreads, 2 * kThreads},
    {"load_global_2", load_global_2, kThreads, {2 * kThreads, 4 * kThreads}, 4 * kThreads},
    {"cp_async<4>", cp_async<4>, kThreads, {4 * kThreads, 4 * kThreads, 4 * kThreads}, 4 * kThreads, 4 * kThreads},
    {"cp_async<8>", cp_async<8>, kThreads, {8 * kThreads, 4 * kThreads, 4 * kThreads}, 8 * kThreads, 8 * kThreads},
    {"cp_async<16>", cp_async<16>, kThreads, {16 * kThreads, 4 * kThreads, 4 * kThreads}, 16 * kThreads, 16 * kThreads},
    {"cp_async_groups", cp_async_groups, kThreads, {20 * kThreads, 4 * kThreads}, 20 * kThreads, 20 * kThreads},
};

}  // namespace

Table memory_cases() { return table_of(kCases); }

}  // namespace conformance
}  // namespace LRK_TARGET
}  // namespace lrk
