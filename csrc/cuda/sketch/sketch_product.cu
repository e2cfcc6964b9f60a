// Host side of products with random signs: the cut of long sums, and the launches.
#include "cuda/sketch/sketch_product.cuh"

#include <algorithm>
#include <cmath>

#include "cuda/sketch/launchers.cuh"
#include "cuda/sketch/sketch_product_launch.cuh"
#include "device/global_memory.cuh"
#include "device/split_sum.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

struct ScaledOutput {
  StackedRows<void*> y;
  float scale = 1.0f;

  __device__ __forceinline__ void write(int row, int col, float sum) const {
    const auto& elements = y.stack.elements;
    store_element(elements.data, elements.dtype, y.offset(row) + col * elements.col_stride, sum * scale);
  }
};

SignProduct single(const SketchProductArgs& args, const Context& context) {
  return SignProduct("sketch", args, 1, 0, 0, 1.0, context);
}

}  // namespace

SignProduct::SignProduct(const char* operation, const SketchProductArgs& args, int64_t count, int64_t x_stride,
                         int64_t y_stride, double x_scale, const Context& context)
    : operation_(operation),
      args_(args),
      x_stride_(x_stride),
      y_stride_(y_stride),
      x_scale_(x_scale),
      context_(context),
      rows_(count * args.y.rows),
      inner_(args.x.cols),
      outer_(args.y.cols) {
  const bool gathers = is_sparse() && args.adjoint;
  const int64_t cols = gathers ? kSignThreads : is_sparse() ? kScatterWindow : kSignCols;
  tiles_ = (outer_ + cols - 1) / cols, row_tiles_ = (rows_ + kSignRows - 1) / kSignRows;
  // Two blocks a multiprocessor, of at least four tiles' depth each: below that the partial sums cost more than they
  // save. The gathering kernel's sums have eight terms.
  constexpr int64_t kLeastLength = 4 * kSignDepth;
  const int64_t wanted = 2 * std::max(1, multiprocessors(context.device)) / std::max<int64_t>(1, tiles_ * row_tiles_);
  if (!gathers) parts_ = std::max<int64_t>(1, std::min(wanted, inner_ / kLeastLength));
  length_ = round_up((inner_ + parts_ - 1) / parts_, kSignDepth);
  parts_ = std::max<int64_t>(1, (inner_ + length_ - 1) / std::max<int64_t>(1, length_));
}

void SignProduct::reserve(Workspace& workspace) {
  if (parts_ > 1) partials_ = workspace.reserve(size_t(parts_ * rows_ * outer_) * sizeof(float));
}

Status SignProduct::check() const {
  const std::string what = operation_;
  if (args_.kind != SketchKind::kRademacher && !is_sparse())
    return Status::unsupported(what + ": only signs have a CUDA kernel");
  if (args_.x.dtype == DType::kFloat64) return Status::unsupported(what + ": float64 has no CUDA kernel");
  if (std::max({rows_, inner_, outer_}) > 0x7fffffff)
    return Status::unsupported(what + ": a side of more than 2^31 - 1");
  if (Status status = check_grid(operation_, tiles_ * row_tiles_); !status.ok() || parts_ == 1) return status;
  return check_grid(operation_, rows_ * outer_ / kSplitSumThreads + 1);
}

const char* SignProduct::kernel() const {
  if (is_sparse()) return args_.adjoint ? "sketch_sparse_sign_sm80_gather" : "sketch_sparse_sign_sm80_scatter";
  return args_.adjoint ? "sketch_rademacher_sm80_adjoint_32x64" : "sketch_rademacher_sm80_32x64";
}

Status SignProduct::run(const Workspace& workspace, void* y) const {
  if (rows_ == 0 || outer_ == 0) return {};
  SignProductParameters parameters;
  parameters.x.stack.elements = ElementView(args_.x), parameters.x.stack.stride = x_stride_;
  parameters.y.stack.elements = MutableElementView(args_.y), parameters.y.stack.stride = y_stride_;
  parameters.y.stack.elements.data = y;
  parameters.x.rows = parameters.y.rows = args_.y.rows;
  if (parts_ > 1) parameters.partials = static_cast<float*>(workspace.at(partials_));
  const int64_t size = args_.adjoint ? inner_ : std::max(args_.size, outer_);
  parameters.rows = rows_, parameters.inner = inner_, parameters.outer = outer_;
  parameters.features = args_.adjoint ? outer_ : inner_, parameters.size = size;
  parameters.length = length_, parameters.tiles = tiles_, parameters.seed = args_.seed;
  parameters.x_scale = float(x_scale_);
  const int64_t entries = is_sparse() ? std::min<int64_t>(kSparseSigns, size) : size;
  parameters.scale = float(1 / std::sqrt(double(std::max<int64_t>(entries, 1))));

  record_dispatch(kernel());
  const bool adjoint = args_.adjoint;
  const auto product = is_sparse() ? (adjoint ? sparse_gather_kernel : sparse_scatter_kernel)
                                  : (adjoint ? rademacher_product_kernel<true> : rademacher_product_kernel<false>);
  const size_t shared = !is_sparse() ? kSignSharedBytes : adjoint ? 0 : scatter_shared_bytes(size);
  const LaunchConfig config(dim3(unsigned(tiles_ * row_tiles_), unsigned(parts_)), dim3(kSignThreads), shared, context_);
  Status status = launch(product, config, parameters);
  if (!status.ok() || parts_ == 1) return status;
  SplitSumParameters<ScaledOutput> sum;
  sum.partials = parameters.partials, sum.splits = int(parts_), sum.rows = int(rows_), sum.cols = int(outer_);
  sum.output.y = parameters.y, sum.output.scale = parameters.scale;
  return launch_split_sum(operation_, sum, context_);
}

Plan plan_sketch_product(const SketchProductArgs& args, const Context& context) {
  SignProduct product = single(args, context);
  Workspace workspace;
  product.reserve(workspace);
  Plan plan;
  plan.kernel = product.kernel();
  plan.reason = "signs are made from Philox where they are added, the same as on the CPU; no matrix is stored";
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Status run_sketch_product(const SketchProductArgs& args, const Context& context) {
  if (args.y.rows == 0 || args.y.cols == 0) return {};
  SignProduct product = single(args, context);
  if (Status status = product.check(); !status.ok()) return status;
  GlobalMemory memory;
  memory.reads(args.x, "x").writes(args.y, "y");
  Workspace workspace;
  product.reserve(workspace);
  if (Status status = workspace.allocate("sketch", context, memory); !status.ok()) return status;
  return product.run(workspace, args.y.data);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
