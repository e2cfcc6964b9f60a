#include "cuda/sketch/range_finder.cuh"

#include <algorithm>

#include "cuda/sketch/columns_launch.cuh"
#include "cuda/sketch/gaussian.cuh"
#include "cuda/sketch/launchers.cuh"
#include "device/launch.cuh"
#include "device/sketch_rules.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

constexpr const char* kKernel = "range_finder_sm80";

MutableMatrices columns_of(const MutableMatrices& stack, int64_t first, int64_t count) {
  MutableMatrices part = stack;
  part.first.data = static_cast<float*>(stack.first.data) + first * stack.first.col_stride, part.first.cols = count;
  return part;
}

}  // namespace

RangeFinder::RangeFinder(const char* operation, const BatchedRangeFinderArgs& args, int64_t size, const Context& context)
    : operation_(operation),
      args_(args),
      context_(context),
      count_(args.a.count),
      rows_(args.a.first.rows),
      cols_(args.a.first.cols),
      size_(size),
      warm_(args.q0.present() ? args.q0.first.cols : 0),
      gaussian_start_(starts_gaussian(cols_, size)),
      of_rows_(operation, count_, rows_, size, 0, context),
      of_cols_(operation, count_, cols_, size, 0, context),
      of_warm_(operation, count_, cols_, warm_, 0, context),
      signs_(operation, start_args(), count_, args.a.stride, rows_ * size, short_start(cols_, size), context) {}

SketchProductArgs RangeFinder::start_args() const {
  SketchProductArgs args;
  args.kind = SketchKind::kSparseSign, args.seed = args_.seed, args.size = size_, args.x = args_.a.first;
  args.y = {nullptr, DType::kFloat32, rows_, size_ - warm_, size_, 1};
  return args;
}

int64_t RangeFinder::gaussian_blocks() const {
  return ((size_ + 1) / 2 * cols_ + kGaussianThreads - 1) / kGaussianThreads;
}

void RangeFinder::reserve(Workspace& workspace) {
  other_ = workspace.reserve(size_t(count_ * cols_ * std::max(size_, warm_)) * sizeof(float));
  if (gaussian_start_) gaussian_ = workspace.reserve(size_t(cols_ * size_) * sizeof(float));
  else signs_.reserve(workspace);
  of_rows_.reserve(workspace), of_cols_.reserve(workspace), of_warm_.reserve(workspace);
}

Status RangeFinder::check() const {
  for (const ColumnQr* qr : {&of_rows_, &of_cols_, &of_warm_})
    if (Status status = qr->check(); !status.ok()) return status;
  return gaussian_start_ ? check_grid(operation_, gaussian_blocks()) : signs_.check();
}

Status RangeFinder::run(const Workspace& workspace, const MutableMatrices& q) const {
  const Matrices &a = args_.a, at = args_.a.transposed();
  if (warm_ > 0) {
    const MutableMatrices known = contiguous(workspace.at(other_), count_, cols_, warm_);
    if (Status status = args_.product(at, args_.q0, known); !status.ok()) return status;
    if (Status status = of_warm_.normalize(workspace, MutableStack(known)); !status.ok()) return status;
    if (Status status = args_.product(a, known, columns_of(q, 0, warm_)); !status.ok()) return status;
  }
  if (size_ > warm_)
    if (Status status = start(workspace, columns_of(q, warm_, size_ - warm_)); !status.ok()) return status;
  const MutableStack columns(q);
  const MutableMatrices other = contiguous(workspace.at(other_), count_, cols_, size_);
  for (int64_t step = 0; step < args_.power_iters; ++step) {
    if (Status status = of_rows_.normalize(workspace, columns); !status.ok()) return status;
    if (Status status = args_.product(at, q, other); !status.ok()) return status;
    if (Status status = of_cols_.normalize(workspace, MutableStack(other)); !status.ok()) return status;
    if (Status status = args_.product(a, other, q); !status.ok()) return status;
  }
  return of_rows_.orthonormalize(workspace, read_only(columns), columns);
}

Status RangeFinder::project(const Workspace& workspace, const Matrices& q, MutableMatrices& out) const {
  out = contiguous(workspace.at(other_), count_, cols_, size_);
  return args_.product(args_.a.transposed(), q, out);
}

Status RangeFinder::start(const Workspace& workspace, const MutableMatrices& out) const {
  if (!gaussian_start_) return signs_.run(workspace, out.first.data);
  GaussianParameters parameters;
  parameters.seed = args_.seed, parameters.features = cols_, parameters.size = size_;
  parameters.scale = short_start(cols_, size_);
  parameters.matrix = static_cast<float*>(workspace.at(gaussian_));
  const LaunchConfig config(dim3(unsigned(gaussian_blocks())), dim3(kGaussianThreads), 0, context_);
  if (Status status = launch(gaussian_kernel, config, parameters); !status.ok()) return status;
  // One matrix for the whole stack.
  const MatrixView first{parameters.matrix, DType::kFloat32, cols_, out.first.cols, size_, 1};
  return args_.product(args_.a, Matrices{first, count_, 0}, out);
}

Plan plan_range_finder(const BatchedRangeFinderArgs& args, const Context& context) {
  Plan plan;
  plan.kernel = kKernel;
  plan.reason = "subspace iteration from a random start by the library's products, a basis after every one";
  Workspace workspace;
  RangeFinder("range_finder", args, args.q.first.cols, context).reserve(workspace);
  plan.workspace_bytes = workspace.bytes();
  return plan;
}

Status run_range_finder(const BatchedRangeFinderArgs& args, const Context& context) {
  if (args.a.first.dtype != DType::kFloat32) return Status::unsupported("range_finder: only float32 has a CUDA kernel");
  if (args.q.count == 0 || args.q.first.rows == 0 || args.q.first.cols == 0) return {};
  RangeFinder finder("range_finder", args, args.q.first.cols, context);
  if (Status status = finder.check(); !status.ok()) return status;
  GlobalMemory memory;
  add_reads(memory, args.a, "a"), add_writes(memory, args.q, "q");
  Workspace workspace;
  finder.reserve(workspace);
  if (Status status = workspace.allocate("range_finder", context, memory); !status.ok()) return status;
  record_dispatch(kKernel);
  return finder.run(workspace, args.q);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
