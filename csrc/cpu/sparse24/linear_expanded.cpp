// The products of many rows: a strip of W becomes dense in the last level cache, and a dense product takes it from
// there.
//
// Work: that of the dense product, and writing W once. What is saved is memory: never more of W is dense than a strip.
// Strips are cut along y's columns, so every sum is taken whole and rounded once.
#include <algorithm>

#include "cpu/gemm/block.h"
#include "cpu/sparse24/nibbles.h"
#include "cpu/sparse24/sparse24.h"
#include "lrk/lowrank.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kStripBytes = 16 << 20;
constexpr int64_t kLeastStrip = 128, kStripMultiple = 64;

/// Columns of y in a strip whose dense columns of W are `depth` long.
int64_t strip_of(int64_t cols, int64_t depth, size_t element) {
  const int64_t fits = kStripBytes / std::max<int64_t>(1, depth * int64_t(element)) / kStripMultiple * kStripMultiple;
  return std::min(cols, std::max(kLeastStrip, fits));
}

MatrixView columns_of(const MatrixView& view, int64_t col, int64_t cols) {
  MatrixView part = view;
  part.data = source_at(view, 0, col).data, part.cols = cols;
  return part;
}

MatrixView rows_of(const MatrixView& view, int64_t row, int64_t rows) {
  MatrixView part = view;
  part.data = source_at(view, row, 0).data, part.rows = rows;
  return part;
}

MutableMatrixView columns_of(const MutableMatrixView& view, int64_t col, int64_t cols) {
  MutableMatrixView part = view;
  part.data = destination_at(view, 0, col).data, part.cols = cols;
  return part;
}

int64_t linear_strip(const Sparse24LinearArgs& args) {
  return strip_of(args.y.cols, args.x.cols, size_of(args.x.dtype));
}

bool is_half(DType dtype) { return size_of(dtype) == 2; }

}  // namespace

size_t sparse24_expanded_workspace(const Sparse24LinearArgs& args) {
  return Workspace::padded(size_t(linear_strip(args) * args.x.cols) * size_of(args.x.dtype));
}

Status sparse24_linear_expanded(const Sparse24LinearArgs& args, const Context& context) {
  const LowRankBackend& dense_backend = lowrank_cpu();
  const int64_t strip = linear_strip(args), depth = args.x.cols;
  const size_t bytes = sparse24_expanded_workspace(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("sparse24_linear", bytes);
  char* const dense = workspace.take<char>(int64_t(bytes));
  for (int64_t col = 0; col < args.y.cols; col += strip) {
    const int64_t cols = std::min(strip, args.y.cols - col);
    LinearArgs part;
    part.x = args.x, part.y = columns_of(args.y, col, cols), part.scale = args.scale;
    if (args.transposed) {
      sparse24_expand(args.weight, 0, depth, col, cols, dense, context);
      part.weight = {dense, args.x.dtype, cols, depth, 1, cols};
    } else {
      sparse24_expand(args.weight, col, cols, 0, depth, dense, context);
      part.weight = {dense, args.x.dtype, cols, depth, depth, 1};
    }
    part.s = args.s, part.up = args.up;
    if (args.s.present()) part.up = rows_of(args.up, col, cols);
    else part.s = {nullptr, args.y.dtype, args.x.rows, 0, 0, 1}, part.up = {nullptr, args.y.dtype, cols, 0, 0, 1};
    if (args.bias.present()) part.bias = columns_of(args.bias, col, cols);
    if (args.product && !is_half(args.x.dtype)) {
      // The library's product has float32's accuracy as it is, so that adding to it costs no rounding of note.
      if (const Status status = args.product(args.x, part.weight.transposed(), part.y); !status.ok()) return status;
      part.base = part.y, part.x = part.weight = {};
      if (part.s.cols == 0 && !part.bias.present()) continue;
    }
    if (const Status status = dense_backend.linear(part, context); !status.ok()) return status;
  }
  return {};
}

namespace {

int64_t grad_strip(const Sparse24ValuesGradArgs& args) {
  return strip_of(args.grad.cols, args.x.cols, std::max<size_t>(4, size_of(args.x.dtype)));
}

template <class T>
void keep_values(const T* dense, const uint8_t* bitmask, int64_t rows, int64_t in, const MutableMatrixView& dvalues,
                 int64_t first, const Context& context) {
  const Kernels<T>& gemm = selected_kernels<T>();
  constexpr int64_t kRowsOfTask = 4;
  run_tasks(context, ceil_div(rows, kRowsOfTask), rows * in, [&](int64_t begin, int64_t end) {
    alignas(64) T kept[256];
    for (int64_t row = begin * kRowsOfTask; row < std::min(rows, end * kRowsOfTask); ++row) {
      const uint8_t* const bits = bitmask + (first + row) * ((in + 7) / 8);
      for (int64_t group = 0; group < in / 4; group += 128) {
        const int64_t count = std::min<int64_t>(128, in / 4 - group);
        for (int64_t g = 0; g < count; ++g) {
          const KeptPair pair = kKeptPairs[nibble_of(bits, group + g)];
          const T* const four = dense + row * in + 4 * (group + g);
          kept[2 * g] = four[pair.first], kept[2 * g + 1] = four[pair.second];
        }
        gemm.finish(kept, 256, 1, 2 * count, nullptr, nullptr, destination_at(dvalues, first + row, 2 * group));
      }
    }
  });
}

}  // namespace

size_t sparse24_values_grad_workspace(const Sparse24ValuesGradArgs& args) {
  return Workspace::padded(size_t(grad_strip(args) * args.x.cols) * std::max<size_t>(4, size_of(args.x.dtype)));
}

Status sparse24_values_grad(const Sparse24ValuesGradArgs& args, const Context& context) {
  const int64_t strip = grad_strip(args), in = args.x.cols;
  const size_t bytes = sparse24_values_grad_workspace(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("sparse24_linear backward", bytes);
  void* const dense = workspace.take<char>(int64_t(bytes));
  const DType sums = args.x.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  for (int64_t row = 0; row < args.grad.cols; row += strip) {
    const int64_t rows = std::min(strip, args.grad.cols - row);
    FactorGradArgs part;
    part.s = columns_of(args.grad, row, rows), part.x = args.x, part.grad = {dense, sums, rows, in, in, 1};
    const Status status = args.product && !is_half(args.x.dtype)
                              ? args.product(part.s.transposed(), part.x, part.grad)
                              : lowrank_cpu().factor_grad(part, context);
    if (!status.ok()) return status;
    if (sums == DType::kFloat64)
      keep_values(static_cast<const double*>(dense), args.bitmask, rows, in, args.dvalues, row, context);
    else
      keep_values(static_cast<const float*>(dense), args.bitmask, rows, in, args.dvalues, row, context);
  }
  return {};
}

}  // namespace lrk::cpu
