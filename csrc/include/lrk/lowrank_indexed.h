// Low-rank products where every row has a factor pair of its own, named by an index: many adapters in one batch.
//
//   project      s_t = scales[i] * x_t downs[i]T                     i = index[t]
//   linear       y_t = x_t weightT + base_t + s_t ups[i]T + bias
//   factor_grad  grads[i] = scales[i] * sum over the t with index[t] = i of s_tT x_t
//
// All rows stay in the caller's order; route() sorts their numbers by adapter, once for all products that share an
// index, and cuts the sorted rows into tiles of one adapter each. Of adapter i the first ranks[i] rows of downs[i] and
// columns of ups[i] count: what lies behind them is never used, and its gradient is zero.
//
// forward:   s = project(x, downs, scales), y = linear(x, weight, s, ups)
// backward:  dp = project(dy, upsT, scales), dx = linear(dy, weightT, dp, downsT), ddowns = factor_grad(dp, x),
//            dupsT = factor_grad(p, dy, scales) with s = scales[i] * p, because every operand may be a transposed view.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {

/// `count` matrices of one shape and dtype, `stack_stride` elements apart.
template <class Matrix>
struct StackOf {
  Matrix first;
  int64_t count = 0, stack_stride = 0;

  Matrix at(int64_t i) const {
    Matrix matrix = first;
    const int64_t bytes = i * stack_stride * int64_t(size_of(first.dtype));
    matrix.data = reinterpret_cast<decltype(matrix.data)>(reinterpret_cast<uintptr_t>(first.data) + uintptr_t(bytes));
    return matrix;
  }
  StackOf transposed() const { return {first.transposed(), count, stack_stride}; }
};
using StackView = StackOf<MatrixView>;
using MutableStackView = StackOf<MutableMatrixView>;

/// Rows `order[first]` to `order[first + rows - 1]` belong to `segment`; the adapter counts up to `rank`.
struct alignas(16) RowTile {
  int32_t segment = 0, first = 0, rows = 0, rank = 0;
};

/// What route() makes of an index, in memory of the kernels' device. Segment i < adapters holds the rows of adapter i,
/// segment `adapters` those without one (index -1), and the last those whose index is out of range: their outputs are
/// NaN, because a device cannot raise. Both have rank 0.
struct Routing {
  int64_t rows = 0, adapters = 0, rank = 0;
  const int32_t* order = nullptr;    // [rows] row numbers by segment, increasing within one
  const int32_t* offsets = nullptr;  // [adapters + 3] where each segment begins in `order`, and `rows` at the end
  const int32_t* ranks = nullptr;    // [adapters] within [0, rank]
  const int32_t* segments_of_rows = nullptr;  // [rows] by row number; absent on the CPU
  const RowTile* tiles = nullptr;    // [tiles_bound], those not needed with no rows
  int64_t tile_rows = 0, tiles_bound = 0;

  int64_t segments() const { return adapters + 2; }
};

struct RouteArgs {
  const void* index = nullptr;  // [rows] int32 or int64, contiguous
  bool index_is_int64 = false;
  const int64_t* ranks = nullptr;  // [adapters] contiguous; absent: all `rank`
  int64_t rows = 0, adapters = 0, rank = 0;
};

/// s_t = scales[i] * p_t with p_t = x_t downs[i]T; zero from ranks[i] on and for rows without an adapter. Sums are kept
/// in float (double for float64) and rounded once.
struct IndexedProjectArgs {
  MatrixView x;                 // [rows, in], any strides
  StackView downs;              // [rank, in] each, x's dtype or float32, any strides
  MatrixView scales;            // [adapters, 1], x's dtype or float32; absent: 1
  MutableMatrixView s;          // [rows, rank]
  MutableMatrixView projected;  // [rows, rank] p itself; absent when not wanted
};

/// y_t = x_t weightT + base_t + s_t ups[i]T + bias. At most one of `weight` and `base` is present, `x` only with
/// `weight`; `base` may be the same memory as `y`.
struct IndexedLinearArgs {
  MatrixView x;         // [rows, in], any strides
  MatrixView weight;    // [out, in], x's dtype
  MatrixView base;      // [rows, out], y's dtype (on the CPU also float32), any strides
  MatrixView s;         // [rows, rank]
  StackView ups;        // [out, rank] each, y's dtype or float32, any strides
  MatrixView bias;      // [1, out], y's dtype or float32; absent: 0
  MutableMatrixView y;  // [rows, out]
};

/// grads[i] = scales[i] * the sum of s_tT x_t over adapter i's rows, in increasing order of t; zero from ranks[i] on.
struct IndexedFactorGradArgs {
  MatrixView s;            // [rows, rank]
  MatrixView x;            // [rows, cols], any strides
  MatrixView scales;       // [adapters, 1], x's dtype or float32; absent: 1
  MutableStackView grads;  // [rank, cols] each, x's dtype or float32, any strides
};

/// One implementation. Shapes and dtypes are the caller's duty, as in lrk/lowrank.h.
struct IndexedBackend {
  const char* name;  // "cpu", "cuda", "cuda_emulated"
  /// Enqueues the sort on the context's stream; the result's memory comes from context.allocate.
  Status (*route)(const RouteArgs&, const Context&, Routing& routing);
  Status (*project)(const IndexedProjectArgs&, const Routing&, const Context&);
  Status (*linear)(const IndexedLinearArgs&, const Routing&, const Context&);
  Status (*factor_grad)(const IndexedFactorGradArgs&, const Routing&, const Context&);
  Plan (*plan_project)(const IndexedProjectArgs&, const RouteArgs&, const Context&);
  Plan (*plan_linear)(const IndexedLinearArgs&, const RouteArgs&, const Context&);
  Plan (*plan_factor_grad)(const IndexedFactorGradArgs&, const RouteArgs&, const Context&);
  /// Whether the caller should compute x weightT as a product of its own and pass it as `base`.
  bool (*dense_apart)(const IndexedLinearArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
};

const IndexedBackend& lowrank_indexed_cpu();
/// nullptr when the library was built without it.
const IndexedBackend* lowrank_indexed_cuda();
const IndexedBackend* lowrank_indexed_cuda_emulated();

}  // namespace lrk
