// From the API's strided views to what the kernels read: which layouts are taken as they are, which small operands are
// packed first, and where everything lies in the workspace. Host only.
#pragma once

#include <algorithm>
#include <limits>
#include <string>

#include "cuda/lowrank/linear_output.cuh"
#include "cuda/lowrank/pack.cuh"
#include "device/global_memory.cuh"
#include "device/launch.cuh"
#include "device/simt_product.cuh"
#include "device/tile.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

inline bool is_half(DType dtype) { return dtype == DType::kBFloat16 || dtype == DType::kFloat16; }

/// A stride that is never used is whatever suits: 1 along a single column, 0 between single rows.
template <class View>
View canonical(View view) {
  if (view.cols <= 1) view.col_stride = 1;
  if (view.rows <= 1) view.row_stride = 0;
  return view;
}

template <class View>
Lines lines_of(const View& view) {
  Lines lines;
  lines.data = view.data, lines.stride = view.row_stride;
  lines.lines = int(view.rows), lines.length = int(view.cols);
  const uintptr_t bits = reinterpret_cast<uintptr_t>(view.data) | uintptr_t(view.row_stride) * 2;
  lines.copy_bytes = bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 2;
  return lines;
}

inline FloatOperand float_operand(const MatrixView& view) {
  FloatOperand operand;
  operand.data = static_cast<const float*>(view.data);
  operand.stride = view.row_stride, operand.sum_stride = view.col_stride, operand.extent = int(view.rows);
  return operand;
}

/// A factor as lines of `dtype`: itself when the kernel can read it, else a copy in the workspace.
struct FactorLines {
  Lines lines;
  bool packed = false;
  size_t offset = 0;
  ElementView source;

  /// `view` has the wanted lines for rows. `wide`: the kernel makes 16-byte accesses.
  FactorLines(const MatrixView& view_, DType dtype, bool wide, Workspace& workspace) {
    const MatrixView view = canonical(view_);
    lines = lines_of(view);
    packed = view.dtype != dtype || view.col_stride != 1 || (wide && lines.copy_bytes != 16);
    if (view.rows == 0 || view.cols == 0) packed = false;
    if (!packed) return;
    source = ElementView(view);
    lines.stride = round_up(view.cols, 8);
    lines.copy_bytes = wide ? 16 : 4;
    offset = workspace.reserve(size_t(lines.lines) * size_t(lines.stride) * 2);
  }

  PackJob job(const Workspace& workspace) {
    lines.data = workspace.at(offset);
    PackJob result;
    result.source = source, result.target = workspace.at(offset);
    result.lines = lines.lines, result.length = lines.length, result.stride = int(lines.stride);
    return result;
  }
};

/// Packs those of `factors` that need it, in one launch.
template <class... Factors>
Status pack_factors(DType dtype, const Workspace& workspace, const Context& context, Factors&... factors) {
  PackParameters parameters;
  parameters.dtype = dtype;
  int jobs = 0;
  const auto add = [&](FactorLines& factor) {
    if (factor.packed) parameters.job[jobs++] = factor.job(workspace);
  };
  (add(factors), ...);
  return jobs == 0 ? Status{} : launch_pack(parameters, jobs, context);
}

/// The last step of a linear: where y, base and bias lie, and whether chunks of eight of them can be moved at once.
inline LinearOutput output_of(const MutableMatrixView& y, const MatrixView& base, const MatrixView& bias) {
  LinearOutput output;
  output.y = MutableElementView(y);
  if (base.present()) output.base = ElementView(base);
  if (bias.present()) output.bias = ElementView(bias);
  output.rows = int(y.rows), output.out = int(y.cols);
  const auto takes_chunks = [](const MatrixView& view) {
    return view.col_stride == 1 && view.row_stride % 8 == 0 && reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
  };
  output.wide = is_half(y.dtype) && output.out % 8 == 0 && takes_chunks(y) && (!base.present() || takes_chunks(base));
  return output;
}

inline bool fits_int(int64_t value) { return value >= 0 && value <= std::numeric_limits<int>::max() - 1024; }

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
