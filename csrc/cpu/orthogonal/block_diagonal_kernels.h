// Rows times one matrix, from staged rows to the result in its own dtype. One table per instruction set.
#pragma once

#include <cstdint>

#include "cpu/gemm/kernels.h"

namespace lrk::cpu {

/// Rows on their way through a product: element (row, col) of a tile of `rows` rows lies at
/// ((col / kStagedCols) rows + row) kStagedStride + col % kStagedCols. The stride of a row is a constant, so that a tile's
/// rows are offsets in the kernel's loads, and a cache line more than a power of two, so that they do not meet in one set
/// of the first level cache.
constexpr int64_t kStagedCols = 1024, kStagedStride = kStagedCols + 16;

template <class T>
struct BlockKernels {
  int tile_rows, tile_cols;

  /// y(i, j) = round(sum_k x(i, k) r(k, j)) for i < rows <= tile_rows, j < cols, k < depth. x is staged, `chunk_stride`
  /// between its parts of kStagedCols columns. r(k, j) lies at (j / tile_cols) panel_stride + k r_stride + j % tile_cols,
  /// where whole panels can be read. y has a unit column stride.
  void (*apply)(int rows, int64_t depth, const T* x, int64_t chunk_stride, const T* r, int64_t r_stride,
                int64_t panel_stride, int64_t cols, const Destination& y);
};

template <class T>
const BlockKernels<T>& block_kernels_portable();
template <class T>
const BlockKernels<T>& block_kernels_avx2();
template <class T>
const BlockKernels<T>& block_kernels_avx512();
/// The table of selected_cpu_isa().
template <class T>
const BlockKernels<T>& selected_block_kernels();

}  // namespace lrk::cpu
