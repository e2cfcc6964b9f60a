// Host side of the bound of the spectral norm.
#include "cuda/sketch/norm_bound.cuh"

#include <algorithm>

#include "cuda/sketch/launchers.cuh"
#include "cuda/sketch/tall_product_launch.cuh"
#include "device/launch.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

constexpr const char* kShared = "spectral_norm_bound_sm80_shared";
constexpr const char* kProducts = "spectral_norm_bound_sm80_products";

Matrices long_side_first(const Matrices& weight) {
  return weight.first.rows >= weight.first.cols ? weight : weight.transposed();
}

/// W with its long side first, and how the work is cut.
struct BoundProblem {
  Matrices weight;
  int64_t count, rows, size, iters, blocks;
  TallProduct gram;
  bool in_shared;

  BoundProblem(const BatchedNormBoundArgs& args, const Context& context)
      : weight(long_side_first(args.weight)),
        count(weight.count),
        rows(weight.first.rows),
        size(weight.first.cols),
        iters(args.iters),
        gram(count, rows, size, size, context) {
    const int64_t wanted = 16 * std::max(1, multiprocessors(context.device)) / std::max<int64_t>(1, count);
    blocks = std::max<int64_t>(1, std::min<int64_t>({wanted, size * size / (4 * kBoundThreads), kBoundThreads}));
    in_shared = norm_bound_shared_bytes(size) <= shared_bytes_of_block(context.device);
  }
};

struct BoundMemory {
  Workspace workspace;
  size_t sums, frobenius, exponents, traces, matrix = 0, next = 0, squares = 0;

  explicit BoundMemory(const BoundProblem& problem) {
    const size_t count = size_t(problem.count), matrices = count * size_t(problem.size * problem.size) * sizeof(double);
    sums = workspace.reserve(problem.gram.bytes());
    frobenius = workspace.reserve(count * size_t(problem.iters + 1) * sizeof(double));
    exponents = workspace.reserve(count * size_t(problem.iters + 1) * sizeof(int));
    traces = workspace.reserve(count * sizeof(double));
    if (problem.in_shared) return;
    matrix = workspace.reserve(matrices), next = workspace.reserve(matrices);
    squares = workspace.reserve(count * size_t(problem.blocks) * sizeof(double));
  }
};

MutableMatrices squares_of(double* data, const BoundProblem& problem) {
  const int64_t size = problem.size;
  return {{data, DType::kFloat64, size, size, size, 1}, problem.count, size * size};
}

}  // namespace

Plan plan_spectral_norm_bound(const BatchedNormBoundArgs& args, const Context& context) {
  const BoundProblem problem(args, context);
  Plan plan;
  plan.kernel = problem.in_shared ? kShared : kProducts;
  plan.reason = problem.in_shared ? "every step of a stack of small Gram matrices in one launch"
                                  : "squares of Gram matrices by the library's float64 GEMM";
  plan.rejected.push_back(problem.in_shared ? Rejected{kProducts, "the launches would take longer than the products"}
                                            : Rejected{kShared, "two Gram matrices do not fit into shared memory"});
  plan.workspace_bytes = BoundMemory(problem).workspace.bytes();
  return plan;
}

Status run_spectral_norm_bound(const BatchedNormBoundArgs& args, const Context& context) {
  if (args.weight.first.dtype == DType::kFloat64)
    return Status::unsupported("spectral_norm_bound: float64 has no CUDA kernel");
  const BoundProblem problem(args, context);
  if (problem.count == 0) return {};
  if (Status status = problem.gram.check("spectral_norm_bound"); !status.ok()) return status;
  GlobalMemory memory;
  add_reads(memory, args.weight, "weight");
  memory.writes(args.bounds, size_t(problem.count) * sizeof(float), "bounds");
  BoundMemory where(problem);
  if (Status status = where.workspace.allocate("spectral_norm_bound", context, memory); !status.ok()) return status;
  record_dispatch(problem.in_shared ? kShared : kProducts);

  NormBoundParameters parameters;
  double* const sums = static_cast<double*>(where.workspace.at(where.sums));
  parameters.sums = sums, parameters.size = int(problem.size), parameters.parts = int(problem.gram.parts);
  parameters.iters = int(problem.iters), parameters.rows = problem.rows, parameters.bounds = args.bounds;
  parameters.frobenius = static_cast<double*>(where.workspace.at(where.frobenius));
  parameters.exponents = static_cast<int*>(where.workspace.at(where.exponents));
  parameters.traces = static_cast<double*>(where.workspace.at(where.traces));
  const ConstStack weight(problem.weight);
  if (problem.size > 0)
    if (Status status = problem.gram.run(weight, weight, sums, {}, context); !status.ok()) return status;
  if (problem.in_shared) {
    const LaunchConfig config(dim3(unsigned(problem.count)), dim3(kBoundThreads), norm_bound_shared_bytes(problem.size),
                              context);
    return launch(norm_bound_kernel, config, parameters);
  }
  double* matrix = static_cast<double*>(where.workspace.at(where.matrix));
  double* next = static_cast<double*>(where.workspace.at(where.next));
  parameters.squares = static_cast<double*>(where.workspace.at(where.squares)), parameters.blocks = int(problem.blocks);
  const LaunchConfig config(dim3(unsigned(problem.count * problem.blocks)), dim3(kBoundThreads),
                            kBoundThreads * sizeof(double), context);
  for (int64_t step = 0; step <= problem.iters; ++step) {
    parameters.matrix = matrix, parameters.step = int(step);
    if (Status status = launch(symmetric_squares_kernel, config, parameters); !status.ok()) return status;
    if (Status status = launch(symmetric_scale_kernel, config, parameters); !status.ok()) return status;
    if (step == problem.iters) break;
    const MutableMatrices from = squares_of(matrix, problem);
    if (Status status = args.product(from, from, squares_of(next, problem)); !status.ok()) return status;
    std::swap(matrix, next);
  }
  return {};
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
