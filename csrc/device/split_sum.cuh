// result[i, j] = sum over splits of partial[split, i, j], in the order of the splits: the second half of a sum that was
// cut over blocks, without atomics. Bound by reading the partials once; neighbouring threads take neighbouring j.
#pragma once

#include "device/launch.cuh"

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

template <class Output>
__global__ void __launch_bounds__(kSplitSumThreads) split_sum_kernel(const SplitSumParameters<Output> parameters) {
  const int64_t count = int64_t(parameters.rows) * parameters.cols;
  const int64_t index = int64_t(blockIdx.x) * kSplitSumThreads + threadIdx.x;
  if (index >= count) return;
  float sum = 0.0f;
#pragma unroll 4
  for (int split = 0; split < parameters.splits; ++split) sum += parameters.partials[split * count + index];
  parameters.output.write(int(index / parameters.cols), int(index % parameters.cols), sum);
}

template <class Output>
Status launch_split_sum(const SplitSumParameters<Output>& parameters, const Context& context) {
  const int64_t blocks = (int64_t(parameters.rows) * parameters.cols + kSplitSumThreads - 1) / kSplitSumThreads;
  if (Status status = check_grid("split_sum", blocks); !status.ok()) return status;
  return launch(split_sum_kernel<Output>, LaunchConfig(dim3(unsigned(blocks)), dim3(kSplitSumThreads), 0, context),
                parameters);
}

}  // namespace LRK_TARGET
}  // namespace lrk
