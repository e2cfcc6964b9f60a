// Host side of products with random signs: the cut of long sums, and the launches.
#include "cuda/sketch/sketch_product.cuh"

#include <algorithm>
#include <cmath>

#include "cuda/sketch/launchers.cuh"
#include "device/global_memory.cuh"
#include "device/split_sum.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

struct ScaledOutput {
  MutableElementView y;
  float scale = 1.0f;

  __device__ __forceinline__ void write(int row, int col, float sum) const { y.store(row, col, sum * scale); }
};

bool is_sparse(const SketchProductArgs& args) { return args.kind == SketchKind::kSparseSign; }

/// How the work is cut: by shape and device alone.
struct Cut {
  int64_t tiles, row_tiles, parts = 1, length;

  Cut(const SketchProductArgs& args, const Context& context) {
    const int64_t rows = args.y.rows, inner = args.x.cols, outer = args.y.cols;
    const bool gathers = is_sparse(args) && args.adjoint;
    const int64_t cols = gathers ? kSignThreads : is_sparse(args) ? kScatterWindow : kSignCols;
    tiles = (outer + cols - 1) / cols, row_tiles = (rows + kSignRows - 1) / kSignRows;
    // Two blocks a multiprocessor, of at least four tiles' depth each: below that the partial sums cost more than they
    // save. The gathering kernel's sums have eight terms.
    constexpr int64_t kLeastLength = 4 * kSignDepth;
    const int64_t wanted = 2 * std::max(1, multiprocessors(context.device)) / std::max<int64_t>(1, tiles * row_tiles);
    if (!gathers) parts = std::max<int64_t>(1, std::min(wanted, inner / kLeastLength));
    length = round_up((inner + parts - 1) / parts, kSignDepth);
    parts = std::max<int64_t>(1, (inner + length - 1) / std::max<int64_t>(1, length));
  }
  size_t workspace_bytes(const SketchProductArgs& args) const {
    return parts == 1 ? 0 : size_t(parts * args.y.rows * args.y.cols) * sizeof(float);
  }
};

const char* kernel_of(const SketchProductArgs& args) {
  if (is_sparse(args)) return args.adjoint ? "sketch_sparse_sign_sm80_gather" : "sketch_sparse_sign_sm80_scatter";
  return args.adjoint ? "sketch_rademacher_sm80_adjoint_32x64" : "sketch_rademacher_sm80_32x64";
}

}  // namespace

Plan plan_sketch_product(const SketchProductArgs& args, const Context& context) {
  Plan plan;
  plan.kernel = kernel_of(args);
  plan.reason = "signs are made from Philox where they are added, the same as on the CPU; no matrix is stored";
  Workspace workspace;
  workspace.reserve(Cut(args, context).workspace_bytes(args));
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Status run_sketch_product(const SketchProductArgs& args, const Context& context) {
  const int64_t rows = args.y.rows, inner = args.x.cols, outer = args.y.cols;
  if (args.kind != SketchKind::kRademacher && args.kind != SketchKind::kSparseSign)
    return Status::unsupported("sketch: only signs have a CUDA kernel");
  if (args.x.dtype == DType::kFloat64) return Status::unsupported("sketch: float64 has no CUDA kernel");
  if (rows == 0 || outer == 0) return {};
  const int64_t features = args.adjoint ? outer : inner, size = args.adjoint ? inner : std::max(args.size, outer);
  if (std::max({rows, inner, outer}) > 0x7fffffff) return Status::unsupported("sketch: a side of more than 2^31 - 1");
  const Cut cut(args, context);
  if (Status status = check_grid("sketch", cut.tiles * cut.row_tiles); !status.ok()) return status;
  GlobalMemory memory;
  memory.reads(args.x, "x").writes(args.y, "y");
  Workspace workspace;
  const size_t partials = workspace.reserve(cut.workspace_bytes(args));
  if (Status status = workspace.allocate("sketch", context, memory); !status.ok()) return status;

  SignProductParameters parameters;
  parameters.x = ElementView(args.x), parameters.y = MutableElementView(args.y);
  if (cut.parts > 1) parameters.partials = static_cast<float*>(workspace.at(partials));
  parameters.rows = rows, parameters.inner = inner, parameters.outer = outer;
  parameters.features = features, parameters.size = size, parameters.length = cut.length, parameters.tiles = cut.tiles;
  parameters.seed = args.seed;
  const int64_t entries = is_sparse(args) ? std::min<int64_t>(kSparseSigns, size) : size;
  parameters.scale = float(1 / std::sqrt(double(std::max<int64_t>(entries, 1))));

  record_dispatch(kernel_of(args));
  const bool adjoint = args.adjoint;
  const auto kernel = is_sparse(args) ? (adjoint ? sparse_gather_kernel : sparse_scatter_kernel)
                                      : (adjoint ? rademacher_product_kernel<true> : rademacher_product_kernel<false>);
  const size_t shared = !is_sparse(args) ? kSignSharedBytes : adjoint ? 0 : scatter_shared_bytes(size);
  const LaunchConfig config(dim3(unsigned(cut.tiles * cut.row_tiles), unsigned(cut.parts)), dim3(kSignThreads), shared,
                            context);
  Status status = launch(kernel, config, parameters);
  if (!status.ok() || cut.parts == 1) return status;
  SplitSumParameters<ScaledOutput> sum;
  sum.partials = parameters.partials, sum.splits = int(cut.parts), sum.rows = int(rows), sum.cols = int(outer);
  sum.output.y = parameters.y, sum.output.scale = parameters.scale;
  return launch_split_sum("sketch", sum, context);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
