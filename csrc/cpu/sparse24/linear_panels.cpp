// y = x WT + scale s upT + bias for few rows (decoding), from the packing.
//
// Bytes: the packing once, 9/16 of a dense half matrix (17/32 of a dense float32 one), which is all that matters while
// x stays in the cache. A vector of W's rows multiplies x by permuting four of its entries in every lane; that and the
// conversion of half values are as much work as a dense kernel has for the same columns: the bytes are what is saved.
// The low-rank term is a second, short depth into the same sums.
#include <algorithm>
#include <cstring>

#include "cpu/gemm/block.h"
#include "cpu/sparse24/kernels.h"
#include "cpu/sparse24/sparse24.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTaskPanels = 2, kTaskCols = kTaskPanels * kPanelRows;
constexpr int64_t kStagedRank = 64;
/// Blocks whose products go into one sum, 256 addends; the sums of all are added then, so that errors do not grow with
/// the depth as one running sum's would.
constexpr int64_t kSumBlocks = 32;
/// Rows whose sums a task keeps on its stack; its panels stay in the second level cache for the next ones.
constexpr int64_t kStackRows = 32;
/// Beyond, the expanded product serves. An estimate: at 4096 x 4096 it took as long for 33 rows as the panels would for
/// about 120 (bfloat16) and 50 to 70 (float32), by what 32 rows took.
constexpr int64_t kMostRowsOfHalf = 128, kMostRowsOfFloat = 64;

int64_t padded_depth(const Sparse24LinearArgs& args) {
  return ceil_div(args.x.cols, kPanelBlockCols) * kPanelBlockCols;
}

}  // namespace

bool sparse24_uses_panels(const Sparse24LinearArgs& args) {
  if (args.packed == nullptr || args.transposed || args.x.dtype == DType::kFloat64) return false;
  return args.x.rows <= (args.x.dtype == DType::kFloat32 ? kMostRowsOfFloat : kMostRowsOfHalf);
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
  const PackingHeader header = packing_header(args.weight, args.transposable);
  if (std::memcmp(args.packed, &header, sizeof header) != 0)
    return Status::invalid("packed is of another matrix than values and bitmask: another shape, dtype or transposable");
  const char* const panels = static_cast<const char*>(args.packed) + sizeof header;
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
  const auto block_of = [&](int64_t task, int64_t first_row, int64_t count) {
    const int64_t col = task * kTaskCols, cols = std::min(kTaskCols, out - col);
    alignas(64) float c[kStackRows * kTaskCols];
    std::fill(c, c + count * kTaskCols, 0.0f);
    for (int64_t k = 0; k < rank; k += kStagedRank) {
      const int64_t length = std::min(kStagedRank, rank - k);
      alignas(64) float staged[kTaskCols * kStagedRank];
      Source up = source_at(args.up, col, k);
      if (args.up.col_stride != 1) {
        gemm.stage(staged, kStagedRank, up, cols, length, length);
        up = {staged, DType::kFloat32, kStagedRank, 1};
      }
      dot_block(gemm, up, cols, s + first_row * rank + k, rank, count, length, c, 1, kTaskCols, true);
    }
    for (int64_t panel = 0; panel * kPanelRows < cols; ++panel) {
      const char* from = panels + (task * kTaskPanels + panel) * panel_bytes;
      for (int64_t block = 0; block < blocks; block += kSumBlocks, from += kSumBlocks * block_bytes)
        for (int64_t row = 0; row < count; row += kMostFewRows)
          kernels.multiply_panel(from, args.weight.values.dtype, std::min(kSumBlocks, blocks - block),
                                 x + (first_row + row) * depth + block * kPanelBlockCols, depth,
                                 std::min<int64_t>(kMostFewRows, count - row),
                                 c + row * kTaskCols + panel * kPanelRows, kTaskCols);
    }
    gemm.finish(c, kTaskCols, count, cols, nullptr, bias == nullptr ? nullptr : bias + col,
                destination_at(args.y, first_row, col));
  };
  run_tasks(context, ceil_div(out, kTaskCols), rows * out * (depth / 2 + rank), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      for (int64_t row = 0; row < rows; row += kStackRows) block_of(task, row, std::min(kStackRows, rows - row));
  });
  return {};
}

}  // namespace lrk::cpu
