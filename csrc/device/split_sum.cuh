// result[i, j] = sum over splits of partial[split, i, j]: the second half of a sum that was cut over blocks, without
// atomics. Bound by reading the partials once; neighbouring threads take neighbouring j.
//
// Idea: kShares threads of a block share an element's partials, each a range of them in order, and their sums meet in a
// fixed tree. One share is right where elements alone fill a device. Of few elements of many partials it would wait for
// memory once every four partials: of 1024 elements of 1152 partials (one 32 x 32 matrix for the 128 blocks of 4096
// features, their rows in 9 parts) 288 times some 0.15 us (L2) to 0.4, for 4.7 MB that pass in one; 32 shares wait 9
// times, in 128 blocks instead of 4. The shape of the sum alone decides.
#pragma once

#include "device/launch.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// `Output::write(row, col, sum)` applies what follows the sum and stores it.
template <class Output>
struct SplitSumParameters {
  const float* partials = nullptr;  // [splits, rows, cols]
  int splits = 0, rows = 0, cols = 0;
  Output output;
};

constexpr int kSplitSumThreads = 256;

template <class Output, int kShares>
__global__ void __launch_bounds__(kSplitSumThreads) split_sum_kernel(const SplitSumParameters<Output> parameters) {
  constexpr int kElements = kSplitSumThreads / kShares;  // of a block; eight are a sector of memory
  const int64_t count = int64_t(parameters.rows) * parameters.cols;
  const int thread = int(threadIdx.x), share = thread / kElements;
  const int64_t index = int64_t(blockIdx.x) * kElements + thread % kElements;
  const int length = (parameters.splits + kShares - 1) / kShares, first = share * length;
  const int end = parameters.splits - first < length ? parameters.splits : first + length;
  float sum = 0.0f;
  if (index < count) {
#pragma unroll 4
    for (int split = first; split < end; ++split) sum += parameters.partials[split * count + index];
  }
  if constexpr (kShares > 1) {
    float* const sums = dynamic_shared<float>();
    sums[thread] = sum;
    __syncthreads();
#pragma unroll 1
    for (int shares = kShares / 2; shares > 0; shares /= 2) {
      if (share < shares) sums[thread] += sums[thread + shares * kElements];
      __syncthreads();
    }
    sum = sums[thread];
  }
  if (share == 0 && index < count)
    parameters.output.write(int(index / parameters.cols), int(index % parameters.cols), sum);
}

/// `operation` is named by errors.
template <class Output>
Status launch_split_sum(const char* operation, const SplitSumParameters<Output>& parameters, const Context& context) {
  constexpr int kMany = 32;                     // shares
  constexpr int64_t kFewElements = int64_t(1) << 17;  // as many threads with 4 loads each keep 2 MB in flight
  const int64_t elements = int64_t(parameters.rows) * parameters.cols;
  const bool shared = parameters.splits >= 2 * kMany && elements < kFewElements;
  const int64_t a_block = shared ? kSplitSumThreads / kMany : kSplitSumThreads, blocks = (elements + a_block - 1) / a_block;
  if (Status status = check_grid(operation, blocks); !status.ok()) return status;
  const LaunchConfig config(dim3(unsigned(blocks)), dim3(kSplitSumThreads),
                            shared ? kSplitSumThreads * sizeof(float) : 0, context);
  return shared ? launch(split_sum_kernel<Output, kMany>, config, parameters)
                : launch(split_sum_kernel<Output, 1>, config, parameters);
}

}  // namespace LRK_TARGET
}  // namespace lrk
