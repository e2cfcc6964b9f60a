// Dropout masks inside kernels: which of N consecutive logical elements are kept, from one Philox call per four.
#pragma once

#include "device/philox.h"
#include "device/target.cuh"
#include "lrk/types.h"

namespace lrk {
inline namespace LRK_TARGET {

/// Dropout as a kernel parameter. The seed is read on the device, so a captured graph sees a fresh one.
struct DropoutParameters {
  const int64_t* seed = nullptr;  // nullptr: keep everything
  uint32_t threshold = 0;
  float scale = 1.0f;  // of kept elements

  DropoutParameters() = default;
  explicit DropoutParameters(const Dropout& dropout) {
    if (!dropout.active()) return;
    seed = dropout.seed;
    threshold = dropout_threshold(dropout.probability);
    scale = float(dropout_scale(dropout.probability));
  }
};

/// Bit i is set when element first_index + i is kept.
template <int kCount>
__device__ __forceinline__ uint32_t dropout_keep_bits(uint64_t seed, uint64_t first_index, uint32_t threshold) {
  static_assert(kCount <= 28, "the bits and three more must fit a word");
  const uint32_t shift = uint32_t(first_index) & 3;
  uint32_t bits = 0;
#pragma unroll
  for (int group = 0; group < (kCount + 3 + 3) / 4; ++group) {
    if (uint32_t(4 * group) >= shift + kCount) break;  // aligned indices need one group fewer
    const PhiloxBlock block = philox4x32_10(seed, (first_index >> 2) + uint64_t(group));
#pragma unroll
    for (int i = 0; i < 4; ++i) bits |= uint32_t(block.word[i] >= threshold) << (4 * group + i);
  }
  return bits >> shift & ((1u << kCount) - 1);
}

}  // namespace LRK_TARGET
}  // namespace lrk
