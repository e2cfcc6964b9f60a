// The inner loops of the 2:4 family, a table an instruction set.
#pragma once

#include <cstdint>

#include "lrk/sparse24.h"

namespace lrk::cpu {

/// A packing is panels of 16 rows, each a sequence of blocks of 32 columns (8 groups). A block is
///   uint32 columns[16]     of row i: group g's two columns in bits 4 g .. 4 g + 3
///   pairs[8][16]           of 16-bit values: uint32, the first value low; of float32 a group is first[16], second[16]
/// so that a vector of rows multiplies x by permuting x, which costs no more than converting the values does.
constexpr int64_t kPanelRows = 16, kPanelBlockCols = 32, kPanelBlockGroups = kPanelBlockCols / 4;

/// Before the panels: what a packing is of, so that one of another matrix is not read as this one's.
struct PackingHeader {
  int64_t magic = 0x31343273'6b72'6c00;
  int64_t out = 0, in = 0, dtype = 0, transposable = 0, unused[3] = {};
};
static_assert(sizeof(PackingHeader) == 64);

inline PackingHeader packing_header(const Sparse24Matrix& weight, bool transposable) {
  PackingHeader header;
  header.out = weight.out(), header.in = weight.in(), header.dtype = int64_t(weight.values.dtype);
  header.transposable = transposable;
  return header;
}

constexpr int64_t sparse24_block_bytes(DType dtype) {
  return kPanelRows * 4 * (1 + kPanelBlockGroups * (dtype == DType::kFloat32 ? 2 : 1));
}

constexpr int kMostFewRows = 4;  // rows of x at once

struct Sparse24Kernels {
  /// c[row * c_stride + i] += the panel's row i times x's row, for rows <= kMostFewRows.
  void (*multiply_panel)(const char* panel, DType dtype, int64_t blocks, const float* x, int64_t x_stride, int64_t rows,
                         float* c, int64_t c_stride);
};

/// Masks of `groups` groups of four: T is float or double.
template <class T>
struct Sparse24MaskKernels {
  /// The two largest magnitudes of every four consecutive `weights`.
  void (*rows)(const T* weights, int64_t groups, uint8_t* mask);
  /// The transposable mask of four rows, `stride` apart; those of the mask are mask_stride apart.
  void (*transposable)(const T* weights, int64_t stride, int64_t groups, uint8_t* mask, int64_t mask_stride);
};

const Sparse24Kernels& sparse24_kernels_portable();
const Sparse24Kernels& sparse24_kernels_avx2();
const Sparse24Kernels& sparse24_kernels_avx512();
/// The table of selected_cpu_isa().
const Sparse24Kernels& selected_sparse24_kernels();

template <class T>
const Sparse24MaskKernels<T>& sparse24_mask_kernels_portable();
template <class T>
const Sparse24MaskKernels<T>& sparse24_mask_kernels_avx2();
template <class T>
const Sparse24MaskKernels<T>& sparse24_mask_kernels_avx512();
template <class T>
const Sparse24MaskKernels<T>& selected_sparse24_mask_kernels();

}  // namespace lrk::cpu
