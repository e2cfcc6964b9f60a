// One block's part of a float32 matrix product on the ordinary cores: accumulators[m, n] += sum_k A[m, k] B[n, k], each
// product an FMA in float32 (no TF32). Operands have any strides, since 4-byte cp.async both moves and transposes.
#pragma once

#include <type_traits>

#include "device/dropout.cuh"
#include "device/ptx/cp_async.cuh"
#include "device/vector.cuh"

namespace lrk {
inline namespace LRK_TARGET {

template <int kTile, int kTileK, int kThreads, int kStride>
class FloatReader;

/// A float32 operand: element (i, k) at data[i * stride + k * sum_stride], i < extent. An operand names the class that
/// copies its tiles.
struct FloatOperand {
  template <int kTile, int kTileK, int kThreads, int kStride>
  using Reader = FloatReader<kTile, kTileK, kThreads, kStride>;

  const float* data = nullptr;
  int64_t stride = 0, sum_stride = 0;
  int extent = 0;
};

/// Dropout on A: the logical index of element (m, k) is m * stride + k * sum_stride.
struct OperandDropout {
  DropoutParameters dropout;
  int64_t stride = 0, sum_stride = 0;
};

/// Copies tile after tile of one operand into shared memory, stored k by k, `kStride` floats apart. Neighbour threads
/// read neighbouring memory: they run along k when k is contiguous, else across it. A thread's elements are a constant
/// step apart, so addresses and bounds are worked out once and then advance.
template <int kTile, int kTileK, int kThreads, int kStride>
class FloatReader {
 public:
  __device__ __forceinline__ FloatReader(const FloatOperand& operand, int first, int first_k, int end_k, int thread) {
    const bool along = operand.sum_stride == 1;
    const int i = along ? thread / kTileK : thread % kTile, k = along ? thread % kTileK : thread / kTile;
    const int step_i = along ? kThreads / kTileK : 0;
    step_k_ = along ? 0 : kThreads / kTile;
    target_ = uint32_t(k * kStride + i) * 4, target_step_ = uint32_t(step_k_ * kStride + step_i) * 4;
    address_ = reinterpret_cast<uintptr_t>(operand.data) +
               uintptr_t((first + i) * operand.stride + (first_k + k) * operand.sum_stride) * 4;
    step_ = (step_i * operand.stride + step_k_ * operand.sum_stride) * 4, advance_ = kTileK * operand.sum_stride * 4;
    left_ = end_k - first_k - k;
    exists_ = 0;
#pragma unroll
    for (int n = 0; n < kCopies; ++n) exists_ |= int(first + i + n * step_i < operand.extent) << n;
  }

  /// Starts the copy of the next kTileK of the sum to shared address `tile`.
  __device__ __forceinline__ void copy(uint32_t tile) {
#pragma unroll
    for (int n = 0; n < kCopies; ++n) {
      const bool exists = (exists_ >> n & 1) != 0 && n * step_k_ < left_;
      // cp.async of no bytes reads nothing, so the address of an element that does not exist need not be valid.
      ptx::cp_async<4>(tile + target_ + uint32_t(n) * target_step_,
                       reinterpret_cast<const float*>(address_ + uintptr_t(n * step_)), exists ? 4 : 0);
    }
    left_ -= kTileK, address_ += uintptr_t(advance_);
  }

 private:
  static constexpr int kCopies = kTile * kTileK / kThreads;
  static_assert(kTile * kTileK % kThreads == 0 && kThreads % kTileK == 0 && kThreads % kTile == 0, "an even deal");

  uintptr_t address_;  // an integer, because it may lie outside the operand where nothing is read
  int64_t step_, advance_;
  uint32_t target_, target_step_;
  int left_, step_k_, exists_;
};

template <int kTileM_, int kTileN_, int kThreads_, int kThreadsN_>
struct SimtProduct {
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kTileK = 16, kStages = 3, kThreads = kThreads_;
  static constexpr int kThreadsN = kThreadsN_, kThreadsM = kThreads / kThreadsN;
  static constexpr int kPerThreadM = kTileM / kThreadsM, kPerThreadN = kTileN / kThreadsN;
  static_assert(kPerThreadM % 4 == 0 && kPerThreadN % 4 == 0, "shared memory is read four floats at a time");
  // Tiles are stored k by k; four floats of padding spread the transposing writes over the banks.
  static constexpr int kStrideA = kTileM + 4, kStrideB = kTileN + 4;
  static constexpr int kStageFloats = kTileK * (kStrideA + kStrideB);
  static constexpr int kSharedBytes = kStages * kStageFloats * 4;

  float* shared;
  int thread, thread_m, thread_n;
  float accumulators[kPerThreadM][kPerThreadN];

  __device__ __forceinline__ SimtProduct(float* shared_, int thread_)
      : shared(shared_), thread(thread_), thread_m(thread_ / kThreadsN), thread_n(thread_ % kThreadsN) {
#pragma unroll
    for (int i = 0; i < kPerThreadM; ++i)
#pragma unroll
      for (int j = 0; j < kPerThreadN; ++j) accumulators[i][j] = 0.0f;
  }

  /// Where accumulators[i][j] lies in the tile: groups of four, a quarter of the threads' span apart.
  __device__ __forceinline__ int row_of(int i) const { return (i / 4 * kThreadsM + thread_m) * 4 + i % 4; }
  __device__ __forceinline__ int col_of(int j) const { return (j / 4 * kThreadsN + thread_n) * 4 + j % 4; }

  /// Adds the sum over k in [begin, end), dropping elements of A where asked; ends with a barrier.
  template <class OperandA, class OperandB>
  __device__ __forceinline__ void accumulate(const OperandA& a, const OperandB& b, int first_m, int first_n, int begin,
                                             int end, const OperandDropout& drop) {
    const int blocks = (end - begin + kTileK - 1) / kTileK;
    const uint64_t seed = drop.dropout.seed != nullptr ? uint64_t(*drop.dropout.seed) : 0;
    typename OperandA::template Reader<kTileM, kTileK, kThreads, kStrideA> reader_a(a, first_m, begin, end, thread);
    typename OperandB::template Reader<kTileN, kTileK, kThreads, kStrideB> reader_b(b, first_n, begin, end, thread);
    const auto copy = [&](int stage) {
      reader_a.copy(ptx::shared_address(stage_a(stage)));
      reader_b.copy(ptx::shared_address(stage_b(stage)));
    };
    int stage = 0, ahead = kStages - 1;  // the stage multiplied and the one filled
#pragma unroll 1
    for (int block = 0; block < kStages - 1; ++block) {
      if (block < blocks) copy(block);
      ptx::cp_async_commit();
    }
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
      ptx::cp_async_wait<kStages - 2>();
      if constexpr (std::is_same_v<OperandA, FloatOperand>) {
        if (drop.dropout.seed != nullptr) drop_in_stage(stage, a, first_m, begin + block * kTileK, drop, seed);
      }
      __syncthreads();  // the tile has arrived for all, and all are done with the stage filled next
      if (block + kStages - 1 < blocks) copy(ahead);
      ptx::cp_async_commit();
      multiply(stage);
      stage = stage + 1 == kStages ? 0 : stage + 1, ahead = ahead + 1 == kStages ? 0 : ahead + 1;
    }
    ptx::cp_async_wait_all();
    __syncthreads();
  }

 private:
  __device__ __forceinline__ float* stage_a(int stage) const { return shared + stage * kStageFloats; }
  __device__ __forceinline__ float* stage_b(int stage) const { return stage_a(stage) + kTileK * kStrideA; }

  /// Zeroes dropped elements among those this thread copied, before the barrier that shows them to others.
  __device__ __forceinline__ void drop_in_stage(int stage, const FloatOperand& a, int first_m, int first_k,
                                                const OperandDropout& drop, uint64_t seed) const {
    const bool along = a.sum_stride == 1;
#pragma unroll 1
    for (int e = thread; e < kTileM * kTileK; e += kThreads) {
      const int i = along ? e / kTileK : e % kTileM, k = along ? e % kTileK : e / kTileM;  // as FloatReader deals
      const uint64_t index = uint64_t(int64_t(first_m + i) * drop.stride + int64_t(first_k + k) * drop.sum_stride);
      if (dropout_keep_bits<1>(seed, index, drop.dropout.threshold) == 0) stage_a(stage)[k * kStrideA + i] = 0.0f;
    }
  }

  __device__ __forceinline__ void multiply(int stage) {
    const float *tile_a = stage_a(stage), *tile_b = stage_b(stage);
#pragma unroll
    for (int k = 0; k < kTileK; ++k) {
      float a[kPerThreadM], b[kPerThreadN];
#pragma unroll
      for (int i = 0; i < kPerThreadM; i += 4) load_four(a + i, tile_a + k * kStrideA + row_of(i));
#pragma unroll
      for (int j = 0; j < kPerThreadN; j += 4) load_four(b + j, tile_b + k * kStrideB + col_of(j));
#pragma unroll
      for (int i = 0; i < kPerThreadM; ++i)
#pragma unroll
        for (int j = 0; j < kPerThreadN; ++j) accumulators[i][j] = fmaf(a[i], b[j], accumulators[i][j]);
    }
  }

  __device__ __forceinline__ static void load_four(float* target, const float* source) {
    const float4 four = load_vector<float4>(source);
    target[0] = four.x, target[1] = four.y, target[2] = four.z, target[3] = four.w;
  }
};

}  // namespace LRK_TARGET
}  // namespace lrk
