// The CPU kernels of lrk/lowrank_indexed.h, behind indexed_backend.cpp. T is the type sums are kept in.
#pragma once

#include <algorithm>

#include "cpu/gemm/block.h"
#include "lrk/lowrank_indexed.h"

namespace lrk::cpu {

template <class T>
Status indexed_project(const IndexedProjectArgs& args, const Routing& routing, const Context& context);
template <class T>
Status indexed_linear(const IndexedLinearArgs& args, const Routing& routing, const Context& context);
template <class T>
Status indexed_factor_grad(const IndexedFactorGradArgs& args, const Routing& routing, const Context& context);
/// Of the last; the others keep all they need on their stacks.
template <class T>
size_t indexed_factor_grad_workspace(const IndexedFactorGradArgs& args);

/// Rows of one tile: whatever a task keeps sums for, but less where that would leave threads without work.
inline int64_t indexed_tile_rows(int64_t rows) { return std::clamp<int64_t>(ceil_div(rows, 32), 16, kBlockRows); }

template <class T>
constexpr DType kSumDType = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;

/// Rows order[0 .. count) of columns [col, col + cols) of `view` as a block of T, `stride` apart.
template <class T>
void gather_rows(const Kernels<T>& kernels, const MatrixView& view, const int32_t* order, int64_t count, int64_t col,
                 int64_t cols, T* block, int64_t stride) {
  for (int64_t i = 0; i < count; ++i)
    kernels.stage(block + i * stride, stride, source_at(view, order[i], col), 1, cols, cols);
}

/// Rounds row i of a block to row order[i] of `view`, from column `col`, after adding `bias`, which may be null.
template <class T>
void scatter_rows(const Kernels<T>& kernels, const T* block, int64_t stride, const int32_t* order, int64_t count,
                  int64_t col, int64_t cols, const T* bias, const MutableMatrixView& view) {
  for (int64_t i = 0; i < count; ++i)
    kernels.finish(block + i * stride, stride, 1, cols, nullptr, bias, destination_at(view, order[i], col));
}

}  // namespace lrk::cpu
