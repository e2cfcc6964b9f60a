// [low_rank | dense]: two operands side by side along the depth, packed into panels of T as if they were one.
#pragma once

#include <algorithm>

#include "cpu/gemm/block.h"

namespace lrk::cpu {

/// Steps of the depth that a pass over a block of C makes: a panel of either operand stays near the first level cache.
constexpr int64_t kDepthChunk = 384;
/// Up to this depth linear_shallow is at least as fast as linear_packed (measured with 64 and 512 rows).
constexpr int64_t kShallowDepth = 128;

/// Columns [k, k + depth) of rows [first, first + count) of [low_rank | dense], transposed to depth x `width`.
template <class T>
void pack_panel(const Kernels<T>& kernels, const MatrixView& low_rank, const MatrixView& dense, int64_t first,
                int64_t count, int64_t width, int64_t k, int64_t depth, T scale, T* panel) {
  const int64_t rank = low_rank.cols, from_low_rank = std::clamp<int64_t>(rank - k, 0, depth);
  if (from_low_rank > 0) {
    kernels.stage(panel, width, source_at(low_rank.transposed(), k, first), from_low_rank, count, width);
    scale_block(panel, from_low_rank * width, scale);
  }
  if (from_low_rank < depth)
    kernels.stage(panel + from_low_rank * width, width, source_at(dense.transposed(), k + from_low_rank - rank, first),
                  depth - from_low_rank, count, width);
}

/// Stages the bias, and answers null when there is none.
template <class T>
T* stage_bias(const Kernels<T>& kernels, const MatrixView& bias, Workspace& workspace) {
  if (!bias.present()) return nullptr;
  T* const staged = workspace.take<T>(bias.cols);
  kernels.stage(staged, bias.cols, source_at(bias, 0, 0), 1, bias.cols, bias.cols);
  return staged;
}

}  // namespace lrk::cpu
