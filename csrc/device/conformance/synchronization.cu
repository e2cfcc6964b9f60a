// Named barriers, atomics, fences, flags between blocks and dependent launches. Where threads race for a word, a case
// gives back what does not depend on who wins.
#include "device/conformance/case.cuh"
#include "device/ptx/atomic.cuh"
#include "device/ptx/barrier.cuh"
#include "device/ptx/grid_dependency.cuh"
#include "device/smem.cuh"
#include "device/spin.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace conformance {
namespace {

using ptx::Order;

constexpr unsigned kThreads = 64, kBlocks = 4;

/// Two producer and two consumer warps: values go over by barrier 1, results come back by barrier 2, and the consumers
/// meet among themselves at barrier 3.
__global__ void named_barriers(Operands operands) {
  uint32_t* values = dynamic_shared<uint32_t>();
  uint32_t* results = values + kThreads;
  if (threadIdx.x < kThreads) {
    const unsigned producer = threadIdx.x;
    values[producer] = operands.in<uint32_t>(0)[producer];
    ptx::barrier_arrive(1, 2 * kThreads);
    ptx::barrier_sync(2, 2 * kThreads);
    operands.out<uint32_t>()[producer] = results[kThreads - 1 - producer];
  } else {
    const unsigned consumer = threadIdx.x - kThreads;
    ptx::barrier_sync(1, 2 * kThreads);
    const uint32_t sum = values[consumer] + values[(consumer + 33) % kThreads];
    ptx::barrier_sync(3, kThreads);  // all values are read
    values[consumer] = sum;
    ptx::barrier_sync(3, kThreads);
    results[consumer] = values[(consumer + 7) % kThreads] * 3;
    ptx::barrier_arrive(2, 2 * kThreads);
  }
}

/// Every operation on a word of the thread's own, in every order; `log` takes what they return.
template <Order kOrder, class T>
__device__ __forceinline__ T* update_word(T* word, T* log, T operand, T guess) {
  *log++ = ptx::atomic_add<kOrder>(word, operand);
  *log++ = ptx::atomic_compare_exchange<kOrder>(word, guess, T(operand ^ guess));
  *log++ = ptx::atomic_exchange<kOrder>(word, T(operand * 3));
  *log++ = ptx::atomic_compare_exchange<kOrder>(word, T(operand * 3), guess);
  return log;
}

constexpr int kLogged = 4 * 4 + 4;

template <class T>
__device__ __forceinline__ void update_word_in_every_order(T* word, T* log, T operand, T guess) {
  log = update_word<Order::kRelaxed>(word, log, operand, guess);
  log = update_word<Order::kAcquire>(word, log, operand, guess);
  log = update_word<Order::kRelease>(word, log, operand, guess);
  log = update_word<Order::kAcquireRelease>(word, log, operand, guess);
  ptx::atomic_reduce_add<Order::kRelaxed>(word, operand);
  *log++ = ptx::atomic_load<Order::kRelaxed>(word);
  ptx::atomic_reduce_add<Order::kRelease>(word, operand);
  *log++ = ptx::atomic_load<Order::kAcquire>(word);
  ptx::atomic_store<Order::kRelaxed>(word, guess);
  *log++ = ptx::atomic_load<Order::kRelaxed>(word);
  ptx::atomic_store<Order::kRelease>(word, operand);
  *log++ = ptx::atomic_load<Order::kAcquire>(word);
}

/// In shared memory (input 3 is 1) or in global memory (0): the word is the last of the thread's output.
template <class T>
__global__ void atomic_words(Operands operands) {
  T* log = operands.out<T>() + threadIdx.x * (kLogged + 1);
  T* word = operands.in<uint32_t>(3)[0] != 0 ? dynamic_shared<T>() + threadIdx.x : log + kLogged;
  *word = operands.in<T>(0)[threadIdx.x];
  update_word_in_every_order(word, log, operands.in<T>(1)[threadIdx.x], operands.in<T>(2)[threadIdx.x]);
  log[kLogged] = *word;
}

/// All threads of the trial's blocks at the same words: a ticket each, and the sum of their values by add, by red and
/// by a compare-exchange loop.
struct Contended {
  uint32_t tickets, exchanged_sum;
  uint64_t added_sum, reduced_sum;
  uint32_t taken[kBlocks * kThreads];  // 1 where the ticket was given out once
};

__global__ void atomic_contention(Operands operands) {
  auto* words = operands.out<Contended>();
  const uint32_t value = operands.in<uint32_t>(0)[operands.block() * kThreads + threadIdx.x];
  const uint32_t ticket = ptx::atomic_add<Order::kRelaxed>(&words->tickets, 1u);
  ptx::atomic_add<Order::kRelaxed>(&words->taken[ticket], 1u);
  ptx::atomic_add<Order::kRelaxed>(&words->added_sum, uint64_t(value));
  ptx::atomic_reduce_add<Order::kRelaxed>(&words->reduced_sum, uint64_t(value));
  uint32_t expected = 0, found;
  while ((found = ptx::atomic_compare_exchange<Order::kRelaxed>(&words->exchanged_sum, expected, expected + value)) !=
         expected)
    expected = found;
}

/// The last block to count itself adds up what all have written.
struct CountedBlocks {
  uint32_t finished, unused[3];
  uint32_t partial[kBlocks][kThreads], sum[kThreads];
};

__global__ void last_block(Operands operands) {
  auto* memory = operands.out<CountedBlocks>();
  auto* is_last = dynamic_shared<uint32_t>();
  const unsigned block = operands.block();
  memory->partial[block][threadIdx.x] = operands.in<uint32_t>(0)[block * kThreads + threadIdx.x] * (2 * block + 1);
  __syncthreads();
  if (threadIdx.x == 0)
    *is_last = ptx::atomic_add<Order::kAcquireRelease>(&memory->finished, 1u) == kBlocks - 1;
  __syncthreads();
  if (*is_last == 0) return;
  uint32_t sum = 0;
  for (unsigned i = 0; i < kBlocks; ++i) sum += memory->partial[i][threadIdx.x];
  memory->sum[threadIdx.x] = sum;
}

/// Block i + 1 waits for the values of block i, changes them and passes them on: by a release and an acquire, or by
/// relaxed accesses and fences (of PTX, or those of CUDA C++).
enum class Publish { kRelease, kFence, kThreadfence };

template <Publish kBy>
__device__ __forceinline__ void fence_grid() {
  if constexpr (kBy == Publish::kFence) ptx::fence_gpu();
  if constexpr (kBy == Publish::kThreadfence) __threadfence();
}

struct Relay {
  uint32_t flag[kBlocks], value[kBlocks][kThreads];
};

template <Publish kBy>
__global__ void relay(Operands operands) {
  constexpr bool kStrong = kBy == Publish::kRelease;
  auto* memory = operands.out<Relay>();
  const unsigned block = operands.block();
  uint32_t value = operands.in<uint32_t>(0)[block * kThreads + threadIdx.x];
  if (block > 0) {
    if (threadIdx.x == 0) {
      const uint32_t* flag = &memory->flag[block - 1];
      spin_until([&] { return ptx::atomic_load<kStrong ? Order::kAcquire : Order::kRelaxed>(flag) == block; });
      fence_grid<kBy>();
    }
    __syncthreads();
    value += memory->value[block - 1][(threadIdx.x + 5) % kThreads] * 2;
  }
  memory->value[block][threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.x != 0) return;
  fence_grid<kBy>();
  ptx::atomic_store<kStrong ? Order::kRelease : Order::kRelaxed>(&memory->flag[block], block + 1);
}

template <bool kThreadfence>
__device__ __forceinline__ void fence_in_block() {
  if constexpr (kThreadfence)
    __threadfence_block();
  else
    ptx::fence_block();
}

/// Two warps of a block, one writing and one waiting for its flag in shared memory.
template <bool kThreadfence>
__global__ void message_in_block(Operands operands) {
  auto* memory = dynamic_shared<uint32_t>();
  uint32_t* flag = memory + 32;
  if (threadIdx.x == 0) *flag = 0;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  if (threadIdx.x < 32) {
    memory[lane] = operands.in<uint32_t>(0)[lane];
    __syncwarp();
    if (lane == 0) {
      fence_in_block<kThreadfence>();
      ptx::atomic_store<Order::kRelaxed>(flag, 1u);
    }
  } else {
    spin_until([&] { return ptx::atomic_load<Order::kRelaxed>(flag) == 1u; });
    fence_in_block<kThreadfence>();
    operands.out<uint32_t>()[lane] = memory[31 - lane];
  }
}

/// Two launches: the first lets the second start at once, the second waits for what the first writes.
struct Handover {
  uint32_t between[kThreads], result[kThreads];
};

__global__ void first_launch(Operands operands) {
  ptx::griddepcontrol_launch_dependents();
  operands.out<Handover>()->between[threadIdx.x] = operands.in<uint32_t>(0)[threadIdx.x] * 5;
}

__global__ void dependent_launch(Operands operands) {
  const uint32_t own = operands.in<uint32_t>(0)[threadIdx.x];  // not written by the first launch
  ptx::griddepcontrol_wait();
  auto* memory = operands.out<Handover>();
  memory->result[threadIdx.x] = memory->between[(threadIdx.x + 1) % kThreads] + own;
}

template <class T>
constexpr Case words_case(const char* name) {
  constexpr size_t kWords = sizeof(T) * kThreads;
  return {name, atomic_words<T>, kThreads, {kWords, kWords, kWords, 4}, (kLogged + 1) * kWords, kWords};
}

/// A trial of several blocks with one word a thread for input.
constexpr Case grid_case(const char* name, Kernel kernel, size_t output_bytes, bool cooperative) {
  Case result = {name, kernel, kThreads, {4 * kBlocks * kThreads}, output_bytes, 16, kBlocks};
  result.cooperative = cooperative;
  return result;
}

constexpr Case dependent_case(const char* name) {
  Case result = {name, first_launch, kThreads, {4 * kThreads}, sizeof(Handover)};
  result.dependent = dependent_launch;
  return result;
}

const Case kCases[] = {
    {"named_barriers", named_barriers, 2 * kThreads, {4 * kThreads}, 4 * kThreads, 8 * kThreads},
    words_case<uint32_t>("atomic_words.32"),
    words_case<uint64_t>("atomic_words.64"),
    grid_case("atomic_contention", atomic_contention, sizeof(Contended), false),
    grid_case("last_block", last_block, sizeof(CountedBlocks), false),
    grid_case("relay.release", relay<Publish::kRelease>, sizeof(Relay), true),
    grid_case("relay.fence", relay<Publish::kFence>, sizeof(Relay), true),
    grid_case("relay.threadfence", relay<Publish::kThreadfence>, sizeof(Relay), true),
    {"message_in_block.fence", message_in_block<false>, 64, {4 * 32}, 4 * 32, 4 * 33},
    {"message_in_block.threadfence", message_in_block<true>, 64, {4 * 32}, 4 * 32, 4 * 33},
    dependent_case("grid_dependency"),
};

}  // namespace

Table synchronization_cases() { return table_of(kCases); }

}  // namespace conformance
}  // namespace LRK_TARGET
}  // namespace lrk
