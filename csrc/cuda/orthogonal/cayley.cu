// Host side of Cayley maps: where the inverse's matrices lie, and the launches of the series and the gradients.
#include "cuda/orthogonal/cayley.cuh"

#include <utility>

#include "cuda/orthogonal/launchers.cuh"
#include "device/global_memory.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {
namespace {

constexpr int64_t kLargestBlock = 4096;  // elements of a block are counted in int

/// What map and gradient have in common.
struct CayleyProblem {
  const char* operation;
  int64_t count, block, terms;
  DType dtype;

  int64_t elements() const { return count * block * block; }
  size_t float_bytes() const { return size_t(elements()) * sizeof(float); }
};

std::string unsupported(const CayleyProblem& problem) {
  const std::string name = problem.operation;
  if (problem.dtype == DType::kFloat64) return name + ": float64 has no CUDA kernel";
  if (problem.block > kLargestBlock) return name + ": the block is too large";
  return {};
}

InversePlace place_of(const CayleyProblem& problem, const Context& context) {
  return InversePlace(problem.block, problem.count, context);
}

std::string forward_name(const CayleyProblem& problem, const Context& context) {
  if (problem.terms != 0) return "cayley_neumann_sm80";
  return std::string("cayley_inverse_sm80_") + (place_of(problem, context).in_shared ? "shared" : "global");
}

std::string backward_name(const CayleyProblem& problem) {
  return problem.terms == 0 ? "cayley_backward_sm80" : "cayley_neumann_backward_sm80";
}

Triangles triangles(const MatrixView& skew, int64_t block) {
  Triangles result;
  result.rows = ElementView(skew), result.size = int(block);
  return result;
}

/// A launch of one thread an element.
template <class Parameters>
Status launch_elements(const CayleyProblem& problem, void (*kernel)(Parameters), const Parameters& parameters,
                       const Context& context) {
  const int64_t blocks = (problem.elements() + kElementThreads - 1) / kElementThreads;
  if (Status status = check_grid(problem.operation, blocks); !status.ok()) return status;
  return launch(kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(kElementThreads), 0, context), parameters);
}

/// Float matrices in the workspace.
struct FloatMatrices {
  float* data;
  int64_t size;
  operator SquareMatrices<const void*>() const { return {data, DType::kFloat32, size}; }
  operator SquareMatrices<void*>() const { return {data, DType::kFloat32, size}; }
};

FloatMatrices matrices_at(const CayleyProblem& problem, const Workspace& workspace, size_t offset) {
  return {static_cast<float*>(workspace.at(offset)), problem.block};
}

/// diagonal I + scale Q to `out`, and Q to `q`.
Status fill(const CayleyProblem& problem, const MatrixView& skew, double diagonal, double scale,
            const SquareMatrices<void*>& out, const SquareMatrices<void*>& q, const Context& context) {
  SkewFillParameters parameters;
  parameters.skew = triangles(skew, problem.block), parameters.count = problem.count;
  parameters.diagonal = float(diagonal), parameters.scale = float(scale);
  parameters.out = out, parameters.q = q;
  return launch_elements(problem, skew_fill_kernel, parameters, context);
}

/// out = alpha a b + c + diagonal I.
Status product(const CayleyProblem& problem, const SquareMatrices<const void*>& a, const SquareMatrices<const void*>& b,
               const SquareMatrices<void*>& out, const Context& context, double alpha = 1.0, double diagonal = 0.0,
               const SquareMatrices<const void*>& c = {}, double beta = 1.0) {
  SmallProductParameters parameters;
  parameters.a = a, parameters.b = b, parameters.c = c, parameters.out = out;
  parameters.size = int(problem.block), parameters.alpha = float(alpha), parameters.beta = float(beta);
  parameters.diagonal = float(diagonal);
  return launch_small_product(problem.operation, parameters, problem.count, context);
}

Status run_exact(const CayleyProblem& problem, const CayleyArgs& args, GlobalMemory& operands, const Context& context) {
  const InversePlace place = place_of(problem, context);
  Workspace workspace;
  workspace.reserve(place.workspace_bytes);
  if (Status status = workspace.allocate(problem.operation, context, operands); !status.ok()) return status;
  CayleyInverseParameters parameters;
  parameters.skew = triangles(args.skew, args.block), parameters.count = args.count;
  parameters.memory = place.memory(workspace.at(0));
  parameters.rotation = {args.rotation.data, args.rotation.dtype, args.block};
  if (Status status = check_grid(problem.operation, place.blocks); !status.ok()) return status;
  return launch(cayley_inverse_kernel, place.config(context), parameters);
}

/// Q, and the two that the series' sums alternate between; none for at most two terms.
int64_t neumann_matrices(int64_t terms) { return neumann_terms(terms) <= 2 ? 0 : 3; }

/// S = c_last I, then S <- c_k I + Q S, down to k = 0; the first such step needs no product.
Status run_neumann(const CayleyProblem& problem, const CayleyArgs& args, GlobalMemory& operands,
                   const Context& context) {
  const int64_t count = neumann_terms(args.terms);
  const SquareMatrices<void*> rotation(args.rotation.data, args.rotation.dtype, args.block);
  if (count <= 2)
    return fill(problem, args.skew, 1.0, count == 2 ? neumann_coefficient(1, 2) : 0.0, rotation, {}, context);
  Workspace workspace;
  size_t offset[3];
  for (int64_t i = 0; i < neumann_matrices(args.terms); ++i) offset[i] = workspace.reserve(problem.float_bytes());
  if (Status status = workspace.allocate(problem.operation, context, operands); !status.ok()) return status;
  const FloatMatrices q = matrices_at(problem, workspace, offset[0]);
  FloatMatrices sum = matrices_at(problem, workspace, offset[1]), next = matrices_at(problem, workspace, offset[2]);
  if (Status status = fill(problem, args.skew, neumann_coefficient(count - 2, count),
                           neumann_coefficient(count - 1, count), sum, q, context);
      !status.ok())
    return status;
  for (int64_t power = count - 3; power >= 0; --power) {
    const SquareMatrices<void*> out = power == 0 ? rotation : SquareMatrices<void*>(next);
    if (Status status = product(problem, q, sum, out, context, 1.0, neumann_coefficient(power, count)); !status.ok())
      return status;
    std::swap(sum, next);
  }
  return {};
}

Status skew_part(const CayleyProblem& problem, const SquareMatrices<const void*>& dq, double scale,
                 const MutableMatrixView& dskew, const Context& context) {
  SkewPartParameters parameters;
  parameters.dq = dq, parameters.size = int(problem.block), parameters.count = problem.count;
  parameters.scale = float(scale), parameters.dskew = MutableElementView(dskew);
  return launch_elements(problem, skew_part_kernel, parameters, context);
}

/// dQ = (R + I)^T G (R + I)^T / 2, where T = R^T G + G and 2 dQ = T R^T + T.
Status run_exact_backward(const CayleyProblem& problem, const CayleyBackwardArgs& args, GlobalMemory& operands,
                          const Context& context) {
  Workspace workspace;
  const size_t first = workspace.reserve(problem.float_bytes()), second = workspace.reserve(problem.float_bytes());
  if (Status status = workspace.allocate(problem.operation, context, operands); !status.ok()) return status;
  const SquareMatrices<const void*> grad(args.grad.data, args.grad.dtype, args.block);
  const SquareMatrices<const void*> rotation(args.rotation.data, args.rotation.dtype, args.block);
  const FloatMatrices left = matrices_at(problem, workspace, first), dq = matrices_at(problem, workspace, second);
  if (Status status = product(problem, rotation.transposed(), grad, left, context, 1.0, 0.0, grad); !status.ok())
    return status;
  if (Status status = product(problem, left, rotation.transposed(), dq, context, 0.5, 0.0, left, 0.5); !status.ok())
    return status;
  return skew_part(problem, dq, 1.0, args.dskew, context);
}

/// The matrices of the series' gradient: Q, dQ, two for G_k, and the sums U_1 .. U_(terms - 2).
int64_t neumann_backward_matrices(int64_t terms) {
  const int64_t count = neumann_terms(terms);
  return count <= 2 ? 0 : 4 + count - 2;
}

/// dQ of R = U_0^T with U_k = c_k I + Q^T U_(k+1): the sum over k of G_k U_(k+1), G_(k+1) = Q^T G_k, G_0 = G.
Status run_neumann_backward(const CayleyProblem& problem, const CayleyBackwardArgs& args, GlobalMemory& operands,
                            const Context& context) {
  const int64_t count = neumann_terms(args.terms);
  const SquareMatrices<const void*> grad(args.grad.data, args.grad.dtype, args.block);
  if (count <= 2)
    return skew_part(problem, grad, count == 2 ? neumann_coefficient(1, 2) : 0.0, args.dskew, context);
  Workspace workspace;
  for (int64_t i = 0; i < neumann_backward_matrices(args.terms); ++i) workspace.reserve(problem.float_bytes());
  if (Status status = workspace.allocate(problem.operation, context, operands); !status.ok()) return status;
  const size_t step = size_t(round_up(int64_t(problem.float_bytes()), 256));
  const auto matrices = [&](int64_t index) { return matrices_at(problem, workspace, size_t(index) * step); };
  const auto sum_of = [&](int64_t power) { return matrices(3 + power); };  // powers 1 .. count - 2
  const SquareMatrices<const void*> q = matrices(0), q_transposed = q.transposed();
  const double last = neumann_coefficient(count - 1, count);
  // Q^T = -Q
  if (Status status = fill(problem, args.skew, neumann_coefficient(count - 2, count), -last, sum_of(count - 2),
                           matrices(0), context);
      !status.ok())
    return status;
  for (int64_t power = count - 3; power >= 1; --power) {
    if (Status status = product(problem, q_transposed, sum_of(power + 1), sum_of(power), context, 1.0,
                                neumann_coefficient(power, count));
        !status.ok())
      return status;
  }
  const FloatMatrices dq = matrices(1);
  SquareMatrices<const void*> now = grad;
  for (int64_t power = 0; power + 2 < count; ++power) {
    const SquareMatrices<const void*> before = power == 0 ? SquareMatrices<const void*>() : dq;
    if (Status status = product(problem, now, sum_of(power + 1), dq, context, 1.0, 0.0, before); !status.ok())
      return status;
    const bool ends = power + 3 == count;
    const FloatMatrices next = matrices(2 + power % 2);
    // The last G_k meets c_last I: it goes straight into the sum.
    if (Status status = ends ? product(problem, q_transposed, now, dq, context, last, 0.0, dq)
                             : product(problem, q_transposed, now, next, context);
        !status.ok())
      return status;
    now = next;
  }
  return skew_part(problem, dq, 1.0, args.dskew, context);
}

CayleyProblem problem_of(const CayleyArgs& args) {
  return {"cayley", args.count, args.block, args.terms, args.skew.dtype};
}

CayleyProblem problem_of(const CayleyBackwardArgs& args) {
  return {"cayley_backward", args.count, args.block, args.terms, args.grad.dtype};
}

}  // namespace

Plan plan_cayley(const CayleyArgs& args, const Context& context) {
  const CayleyProblem problem = problem_of(args);
  Plan plan;
  plan.kernel = "none", plan.reason = unsupported(problem);
  if (!plan.reason.empty()) return plan;
  plan.kernel = forward_name(problem, context);
  if (args.terms != 0) {
    plan.reason = "a product a term";
    plan.workspace_bytes = size_t(neumann_matrices(args.terms)) * size_t(round_up(int64_t(problem.float_bytes()), 256));
    return plan;
  }
  const InversePlace place = place_of(problem, context);
  plan.reason = place.in_shared ? "a block's float64 matrix fits into shared memory"
                                : "a block's float64 matrix does not fit into shared memory";
  plan.workspace_bytes = size_t(round_up(int64_t(place.workspace_bytes), 256));
  return plan;
}

Status run_cayley(const CayleyArgs& args, const Context& context) {
  const CayleyProblem problem = problem_of(args);
  if (const std::string reason = unsupported(problem); !reason.empty()) return Status::unsupported(reason);
  if (args.count == 0) return {};
  GlobalMemory operands;
  operands.reads(args.skew, "skew").writes(args.rotation, "rotation");
  record_dispatch(forward_name(problem, context));
  return args.terms == 0 ? run_exact(problem, args, operands, context) : run_neumann(problem, args, operands, context);
}

Plan plan_cayley_backward(const CayleyBackwardArgs& args, const Context&) {
  const CayleyProblem problem = problem_of(args);
  Plan plan;
  plan.kernel = "none", plan.reason = unsupported(problem);
  if (!plan.reason.empty()) return plan;
  plan.kernel = backward_name(problem);
  plan.reason = args.terms == 0 ? "two products from R, no solve" : "the series' products from skew";
  const int64_t matrices = args.terms == 0 ? 2 : neumann_backward_matrices(args.terms);
  plan.workspace_bytes = size_t(matrices) * size_t(round_up(int64_t(problem.float_bytes()), 256));
  return plan;
}

Status run_cayley_backward(const CayleyBackwardArgs& args, const Context& context) {
  const CayleyProblem problem = problem_of(args);
  if (const std::string reason = unsupported(problem); !reason.empty()) return Status::unsupported(reason);
  if (args.count == 0 || args.block < 2) return {};
  GlobalMemory operands;
  operands.reads(args.grad, "grad").writes(args.dskew, "dskew");
  operands.reads(args.terms == 0 ? args.rotation : args.skew, args.terms == 0 ? "rotation" : "skew");
  record_dispatch(backward_name(problem));
  return args.terms == 0 ? run_exact_backward(problem, args, operands, context)
                         : run_neumann_backward(problem, args, operands, context);
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
