// The table of inner kernels, one per instruction set. Everything that depends on the vector width is behind it; the
// drivers that loop over blocks are compiled once for the baseline. T is float, or double for float64 operands.
//
// A translation unit that fills a table is compiled for its instruction set, so it keeps all its code in an anonymous
// namespace: an inline function with external linkage could be the copy the linker keeps for everybody.
#pragma once

#include <cstdint>

#include "lrk/types.h"

namespace lrk::cpu {

/// Elements read through two strides. float kernels read float32, bfloat16 and float16; double ones float64, float32.
struct Source {
  const void* data;
  DType dtype;
  int64_t row_stride, col_stride;
};

struct Destination {
  void* data;
  DType dtype;
  int64_t row_stride, col_stride;
};

/// The Philox dropout of lrk/types.h, resolved: an element is kept when its bits are >= threshold.
struct DropoutMask {
  uint64_t seed;
  uint32_t threshold;
  double scale;
};

template <class T>
struct Kernels {
  int tile_rows, tile_cols;          // the largest C tile `multiply` keeps in registers
  int dot_streamed, dot_resident;    // the largest tile of `dot`

  /// out[i * out_stride + j] = in(i, j) for i < rows, j < cols, and 0 for cols <= j < padded_cols. Transposing is the
  /// same call with the strides of `in` exchanged, so this also packs panels.
  void (*stage)(T* out, int64_t out_stride, const Source& in, int64_t rows, int64_t cols, int64_t padded_cols);

  /// Drops elements of a block in place; (i, j) has the logical index first_index + i * index_stride + j.
  void (*drop)(T* block, int64_t stride, int64_t rows, int64_t cols, uint64_t first_index, uint64_t index_stride,
               const DropoutMask& mask);

  /// c(i, j) = sum_k a[k * a_stride + i] b[k * b_stride + j] (+ c when `accumulate`), i < rows <= tile_rows,
  /// j < tile_cols. Meanwhile the `fetch_count` elements at `fetch`, wanted soon, come to the second level cache.
  void (*multiply)(int64_t rows, int64_t depth, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* c,
                   int64_t c_stride, bool accumulate, const T* fetch, int64_t fetch_count);

  /// out[i * out_i + j * out_j] = sum_k streamed(i, k) resident[j * resident_stride + k] (+ out when `accumulate`).
  /// `streamed` has a unit column stride and keeps its own dtype; at most dot_streamed x dot_resident of them at once.
  void (*dot)(const Source& streamed, int64_t streamed_rows, const T* resident, int64_t resident_stride,
              int64_t resident_rows, int64_t depth, T* out, int64_t out_i, int64_t out_j, bool accumulate);

  /// out(i, j) = round(block(i, j) + base(i, j) + bias[j]); base (out's dtype) and bias may be null, base may be out.
  void (*finish)(const T* block, int64_t stride, int64_t rows, int64_t cols, const Source* base, const T* bias,
                 const Destination& out);
};

template <class T>
const Kernels<T>& kernels_portable();
template <class T>
const Kernels<T>& kernels_avx2();
template <class T>
const Kernels<T>& kernels_avx512();

/// The table of selected_cpu_isa().
template <class T>
const Kernels<T>& selected_kernels();

}  // namespace lrk::cpu
