// y = x weightT + base + scale * mask . (s upT) + bias for few rows (decoding).
//
// Bytes: the weight once, and nothing else that grows with it: its rows are read in place, in their own dtype, as the
// streamed operand of dot tiles whose other operand is x, widened once. The low-rank term is a second, short depth.
#include <algorithm>

#include "cpu/gemm/block.h"
#include "cpu/lowrank/kernels.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTaskCols = 32;     // weight rows of one task
constexpr int64_t kDepthChunk = 1024;  // where x takes several tiles: one's chunk stays near the first level cache
constexpr int64_t kTaskRows = 64;     // rows of x a task keeps sums for

template <class T>
bool usable_in_place(const MatrixView& view) {
  return view.col_stride == 1 && size_of(view.dtype) == sizeof(T);
}

}  // namespace

template <class T>
size_t linear_few_rows_workspace(const LinearArgs& args) {
  const size_t x = usable_in_place<T>(args.x) ? 0 : Workspace::padded(size_t(args.x.rows * args.x.cols) * sizeof(T));
  const size_t s = Workspace::padded(size_t(args.s.rows * args.s.cols) * sizeof(T));
  return x + s + (args.bias.present() ? Workspace::padded(size_t(args.y.cols) * sizeof(T)) : 0);
}

template <class T>
Status linear_few_rows(const LinearArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t rows = args.y.rows, out = args.y.cols, inner = args.x.cols, rank = args.s.cols;
  const size_t bytes = linear_few_rows_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_linear", bytes);

  const T* x = static_cast<const T*>(args.x.data);
  int64_t x_stride = args.x.row_stride;
  if (!usable_in_place<T>(args.x)) {
    T* const staged = workspace.take<T>(rows * inner);
    kernels.stage(staged, inner, source_at(args.x, 0, 0), rows, inner, inner);
    x = staged, x_stride = inner;
  }
  T* const s = workspace.take<T>(rows * rank);
  if (rank > 0) kernels.stage(s, rank, source_at(args.s, 0, 0), rows, rank, rank);
  scale_block(s, rows * rank, T(args.scale));
  T* bias = nullptr;
  if (args.bias.present()) {
    bias = workspace.take<T>(out);
    kernels.stage(bias, out, source_at(args.bias, 0, 0), 1, out, out);
  }
  const DropoutMask mask = args.dropout.active() ? resolve(args.dropout) : DropoutMask{};

  const auto task_body = [&](int64_t first_row, int64_t count, int64_t col, int64_t cols) {
    alignas(64) T c[kTaskRows * kTaskCols];
    std::fill(c, c + count * kTaskCols, T(0));
    for (int64_t k = 0; k < rank; k += kDepthChunk) {
      const int64_t length = std::min(kDepthChunk, rank - k);
      alignas(64) T staged[kTaskCols * kDepthChunk];
      Source up = source_at(args.up, col, k);
      if (args.up.col_stride != 1) {
        kernels.stage(staged, kDepthChunk, up, cols, length, length);
        up = {staged, sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32, kDepthChunk, 1};
      }
      dot_block(kernels, up, cols, s + first_row * rank + k, rank, count, length, c, 1, kTaskCols, true);
    }
    if (args.dropout.active() && rank > 0)
      kernels.drop(c, kTaskCols, count, cols, uint64_t(first_row) * uint64_t(out) + uint64_t(col), uint64_t(out), mask);
    const int64_t chunk = count <= kernels.dot_resident ? inner : kDepthChunk;
    for (int64_t k = 0; k < inner; k += chunk)
      dot_block(kernels, source_at(args.weight, col, k), cols, x + first_row * x_stride + k, x_stride, count,
                std::min(chunk, inner - k), c, 1, kTaskCols, true);
    Source base{};
    if (args.base.present()) base = source_at(args.base, first_row, col);
    kernels.finish(c, kTaskCols, count, cols, args.base.present() ? &base : nullptr,
                   bias == nullptr ? nullptr : bias + col, destination_at(args.y, first_row, col));
  };
  run_tasks(context, ceil_div(out, kTaskCols), rows * out * (inner + rank), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t col = task * kTaskCols, cols = std::min(kTaskCols, out - col);
      for (int64_t row = 0; row < rows; row += kTaskRows) task_body(row, std::min(kTaskRows, rows - row), col, cols);
    }
  });
  return {};
}

template Status linear_few_rows<float>(const LinearArgs&, const Context&);
template Status linear_few_rows<double>(const LinearArgs&, const Context&);
template size_t linear_few_rows_workspace<float>(const LinearArgs&);
template size_t linear_few_rows_workspace<double>(const LinearArgs&);

}  // namespace lrk::cpu
