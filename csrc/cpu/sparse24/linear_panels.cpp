// y = x WT + scale s upT + bias for few rows (decoding), from the packing.
//
// Bytes: the packing once, 9/16 of a dense half matrix (17/32 of a dense float32 one), which is all that matters while
// x stays in the cache. A vector of W's rows multiplies x by permuting four of its entries in every lane; that and the
// conversion of half values are as much work as a dense kernel has for the same columns: the bytes are what is saved.
// The low-rank term is a second, short depth into the same sums.
#include <algorithm>

#include "cpu/gemm/block.h"
#include "cpu/sparse24/kernels.h"
#include "cpu/sparse24/sparse24.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTaskPanels = 2, kTaskCols = kTaskPanels * kPanelRows;
/// Blocks whose products go into one sum, 256 addends; the sums of all are added then, so that errors do not grow with
/// the depth as one running sum's would.
constexpr int64_t kSumBlocks = 32;
/// Beyond, the expanded product takes as long: it reads W once for all rows, the panels are read once every four.
constexpr int64_t kMostRows = 32;

int64_t padded_depth(const Sparse24LinearArgs& args) {
  return ceil_div(args.x.cols, kPanelBlockCols) * kPanelBlockCols;
}

}  // namespace

bool sparse24_uses_panels(const Sparse24LinearArgs& args) {
  return args.packed != nullptr && !args.transposed && args.x.rows <= kMostRows && args.x.dtype != DType::kFloat64;
}

size_t sparse24_panels_workspace(const Sparse24LinearArgs& args) {
  const size_t x = Workspace::padded(size_t(args.x.rows * padded_depth(args)) * sizeof(float));
  const size_t s = Workspace::padded(size_t(args.x.rows * args.s.cols) * sizeof(float));
  return x + s + (args.bias.present() ? Workspace::padded(size_t(args.y.cols) * sizeof(float)) : 0);
}

Status sparse24_linear_panels(const Sparse24LinearArgs& args, const Context& context) {
  const Kernels<float>& gemm = selected_kernels<float>();
  const Sparse24Kernels& kernels = selected_sparse24_kernels();
  const int64_t rows = args.x.rows, out = args.y.cols, depth = padded_depth(args), rank = args.s.cols;
  const int64_t blocks = depth / kPanelBlockCols, block_bytes = sparse24_block_bytes(args.weight.values.dtype);
  const int64_t panel_bytes = blocks * block_bytes;
  const size_t bytes = sparse24_panels_workspace(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("sparse24_linear", bytes);
  float* const x = workspace.take<float>(rows * depth);
  gemm.stage(x, depth, source_at(args.x, 0, 0), rows, args.x.cols, depth);
  float* const s = workspace.take<float>(rows * rank);
  if (rank > 0) gemm.stage(s, rank, source_at(args.s, 0, 0), rows, rank, rank);
  scale_block(s, rows * rank, float(args.scale));
  float* bias = nullptr;
  if (args.bias.present()) {
    bias = workspace.take<float>(out);
    gemm.stage(bias, out, source_at(args.bias, 0, 0), 1, out, out);
  }
  run_tasks(context, ceil_div(out, kTaskCols), rows * out * (depth / 2 + rank), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t col = task * kTaskCols, cols = std::min(kTaskCols, out - col);
      alignas(64) float c[kMostRows * kTaskCols];
      std::fill(c, c + rows * kTaskCols, 0.0f);
      if (rank > 0) {
        alignas(64) float staged[kTaskCols * 64];
        for (int64_t k = 0; k < rank; k += 64) {
          const int64_t length = std::min<int64_t>(64, rank - k);
          Source up = source_at(args.up, col, k);
          if (args.up.col_stride != 1) {
            gemm.stage(staged, 64, up, cols, length, length);
            up = {staged, DType::kFloat32, 64, 1};
          }
          dot_block(gemm, up, cols, s + k, rank, rows, length, c, 1, kTaskCols, true);
        }
      }
      for (int64_t panel = 0; panel * kPanelRows < cols; ++panel) {
        const char* from = static_cast<const char*>(args.packed) + (task * kTaskPanels + panel) * panel_bytes;
        for (int64_t block = 0; block < blocks; block += kSumBlocks, from += kSumBlocks * block_bytes)
          for (int64_t row = 0; row < rows; row += kMostFewRows)
            kernels.multiply_panel(from, args.weight.values.dtype, std::min(kSumBlocks, blocks - block),
                                   x + row * depth + block * kPanelBlockCols, depth,
                                   std::min<int64_t>(kMostFewRows, rows - row),
                                   c + row * kTaskCols + panel * kPanelRows, kTaskCols);
      }
      gemm.finish(c, kTaskCols, rows, cols, nullptr, bias == nullptr ? nullptr : bias + col,
                  destination_at(args.y, 0, col));
    }
  });
  return {};
}

}  // namespace lrk::cpu
