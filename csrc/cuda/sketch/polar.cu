// Newton-Schulz iterations: a block of threads a matrix where it fits, else products of the caller's library.
#include <algorithm>
#include <utility>

#include "cuda/sketch/columns_launch.cuh"
#include "cuda/sketch/frobenius.cuh"
#include "cuda/sketch/launchers.cuh"
#include "cuda/sketch/newton_schulz.cuh"
#include "device/launch.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {
namespace {

constexpr const char* kShared = "newton_schulz_sm80_shared";
constexpr const char* kProducts = "newton_schulz_sm80_products";

/// The short side first.
struct PolarProblem {
  Matrices a;
  MutableMatrices out;
  int64_t count, rows, cols, steps;

  explicit PolarProblem(const BatchedPolarArgs& args) : a(args.a), out(args.out) {
    if (a.first.rows > a.first.cols) a.first = a.first.transposed(), out.first = out.first.transposed();
    count = a.count, rows = a.first.rows, cols = a.first.cols, steps = int64_t(args.coefficients.size() / 3);
  }
};

/// Why one block cannot take a matrix; empty when it can.
std::string why_not_shared(const PolarProblem& problem, const Context& context) {
  if (problem.rows > kMostNewtonRows) return "its short side has more than 128 entries";
  if (newton_shared_bytes(problem.rows, problem.cols) > shared_bytes_of_block(context.device))
    return "a matrix and its Gram matrix do not fit into a block's shared memory";
  if (problem.steps > kMostNewtonSteps) return "more steps than a kernel takes";
  return {};
}

/// Blocks of a matrix in passes over its entries: two waves of the device, of four entries a thread at least.
int64_t norm_blocks(const PolarProblem& problem, const Context& context) {
  const int64_t processors = std::max(1, multiprocessors(context.device));
  const int64_t wanted = 2 * 8 * processors / std::max<int64_t>(1, problem.count);
  return std::max<int64_t>(1, std::min({wanted, problem.rows * problem.cols / (4 * kNormThreads), int64_t(kMostNormBlocks)}));
}

struct PolarMemory {
  Workspace workspace;
  size_t x, next, m, square, largest, squares;

  PolarMemory(const PolarProblem& problem, int64_t blocks) {
    const size_t matrices = size_t(problem.count * problem.rows * problem.cols) * sizeof(float);
    const size_t grams = size_t(problem.count * problem.rows * problem.rows) * sizeof(float);
    x = workspace.reserve(matrices), next = workspace.reserve(matrices);
    m = workspace.reserve(grams), square = workspace.reserve(grams);
    largest = workspace.reserve(size_t(problem.count * blocks) * sizeof(float));
    squares = workspace.reserve(size_t(problem.count * blocks) * sizeof(double));
  }
};

Status run_shared(const PolarProblem& problem, const BatchedPolarArgs& args, const Context& context) {
  NewtonSchulzParameters parameters;
  parameters.a = ConstStack(problem.a), parameters.out = MutableStack(problem.out);
  parameters.rows = int(problem.rows), parameters.cols = int(problem.cols), parameters.steps = int(problem.steps);
  for (size_t i = 0; i < args.coefficients.size(); ++i) parameters.coefficients[i] = float(args.coefficients[i]);
  const int tiles = newton_padded(problem.rows) / kNewtonTile;
  const auto kernel =
      tiles <= 2 ? newton_schulz_kernel<1> : tiles == 3 ? newton_schulz_kernel<2> : newton_schulz_kernel<3>;
  const LaunchConfig config(dim3(unsigned(problem.count)), dim3(kNewtonThreads),
                            newton_shared_bytes(problem.rows, problem.cols), context);
  return launch(kernel, config, parameters);
}

Status run_products(const PolarProblem& problem, const BatchedPolarArgs& args, GlobalMemory& memory,
                    const Context& context) {
  const int64_t count = problem.count, rows = problem.rows, cols = problem.cols;
  const int64_t blocks = norm_blocks(problem, context);
  if (Status status = check_grid("polar", count * (rows * cols / kNormThreads + 1)); !status.ok()) return status;
  PolarMemory where(problem, blocks);
  if (Status status = where.workspace.allocate("polar", context, memory); !status.ok()) return status;
  const auto floats = [&](size_t offset) { return static_cast<float*>(where.workspace.at(offset)); };
  const auto config = [&](int64_t grid, size_t shared) {
    return LaunchConfig(dim3(unsigned(grid)), dim3(kNormThreads), shared, context);
  };
  const auto elementwise = [&](int64_t elements) { return config((elements + kNormThreads - 1) / kNormThreads, 0); };
  float *x = floats(where.x), *next = floats(where.next), *const m = floats(where.m), *const square = floats(where.square);

  FrobeniusParameters scale;
  scale.a = ConstStack(problem.a), scale.x = MutableStack(x, rows, cols);
  scale.rows = rows, scale.cols = cols, scale.blocks = int(blocks), scale.largest = floats(where.largest);
  scale.squares = static_cast<double*>(where.workspace.at(where.squares));
  const LaunchConfig passes = config(count * blocks, kNormThreads * sizeof(double));
  for (const auto kernel : {largest_entry_kernel, sum_of_squares_kernel, divide_by_norm_kernel})
    if (Status status = launch(kernel, passes, scale); !status.ok()) return status;

  const MutableMatrices gram = contiguous(m, count, rows, rows), squared = contiguous(square, count, rows, rows);
  for (int64_t step = 0; step < problem.steps; ++step) {
    const double* const coefficients = args.coefficients.data() + 3 * step;
    const Matrices from = contiguous(x, count, rows, cols);
    if (Status status = args.product(from, from.transposed(), gram); !status.ok()) return status;
    const bool quintic = coefficients[2] != 0;
    if (quintic)
      if (Status status = args.product(gram, gram, squared); !status.ok()) return status;
    PolynomialParameters polynomial;
    polynomial.m = m, polynomial.square = quintic ? square : nullptr;
    polynomial.rows = rows, polynomial.elements = count * rows * rows;
    polynomial.c0 = float(coefficients[0]), polynomial.c1 = float(coefficients[1]), polynomial.c2 = float(coefficients[2]);
    if (Status status = launch(polynomial_kernel, elementwise(polynomial.elements), polynomial); !status.ok())
      return status;
    if (Status status = args.product(gram, from, contiguous(next, count, rows, cols)); !status.ok()) return status;
    std::swap(x, next);
  }
  return copy_matrices(contiguous(x, count, rows, cols), problem.out, context);
}

}  // namespace

Plan plan_polar(const BatchedPolarArgs& args, const Context& context) {
  if (args.exact) return plan_exact_polar(args, context);
  const PolarProblem problem(args);
  Plan plan;
  const std::string why_not = why_not_shared(problem, context);
  if (why_not.empty()) {
    plan.kernel = kShared, plan.reason = "every step of a stack of small matrices in one launch";
    plan.rejected.push_back({kProducts, "launches of every product take longer than the products"});
    return plan;
  }
  plan.kernel = kProducts, plan.reason = "products on the short side, by the library's GEMM";
  plan.rejected.push_back({kShared, why_not});
  plan.workspace_bytes = PolarMemory(problem, norm_blocks(problem, context)).workspace.bytes();
  return plan;
}

Status run_polar(const BatchedPolarArgs& args, const Context& context) {
  if (args.exact) return run_exact_polar(args, context);
  const PolarProblem problem(args);
  if (problem.a.first.dtype == DType::kFloat64) return Status::unsupported("polar: float64 has no CUDA kernel");
  if (problem.count == 0 || problem.rows == 0 || problem.cols == 0) return {};
  if (Status status = check_grid("polar", problem.count); !status.ok()) return status;
  GlobalMemory memory;
  add_reads(memory, args.a, "a"), add_writes(memory, args.out, "out");
  const bool shared = why_not_shared(problem, context).empty();
  record_dispatch(shared ? kShared : kProducts);
  return shared ? run_shared(problem, args, context) : run_products(problem, args, memory, context);
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
