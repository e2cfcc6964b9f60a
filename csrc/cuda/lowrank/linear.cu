// Host side of linear: layouts, path choice, packing of the factors, launch.
#include "cuda/lowrank/launchers.cuh"
#include "cuda/lowrank/operands.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

/// The arguments with unused strides made canonical and absent or inert terms removed.
LinearArgs simplified(LinearArgs args) {
  args.x = canonical(args.x), args.weight = canonical(args.weight);
  args.s = canonical(args.s), args.up = canonical(args.up);
  args.y = canonical(args.y), args.base = canonical(args.base);
  if (args.dropout.active() && args.dropout.probability >= 1.0) {  // everything is dropped, NaN included
    args.s.cols = args.up.cols = 0;
    args.dropout = Dropout{};
  }
  return args;
}

std::string unsupported(const LinearArgs& args) {
  const DType dtype = args.y.dtype;
  if (dtype == DType::kFloat64) return "lowrank_linear: float64 has no CUDA kernel";
  for (const MatrixView* view : {&args.s, &args.up, &args.bias})
    if (view->present() && view->dtype != dtype && view->dtype != DType::kFloat32)
      return std::string("lowrank_linear: a factor or bias of ") + name_of(view->dtype) + " with y of " +
             name_of(dtype);
  for (const MatrixView* view : {&args.x, &args.weight, &args.base})
    if (view->present() && view->dtype != dtype)
      return std::string("lowrank_linear: an operand of ") + name_of(view->dtype) + " with y of " + name_of(dtype);
  for (const int64_t extent : {args.y.rows, args.y.cols, args.s.cols, args.x.cols})
    if (!fits_int(extent)) return "lowrank_linear: an extent of " + std::to_string(extent) + " is too large";
  return {};
}

/// Whether the columns of a matrix, not its rows, are its lines. Of a single strided row each column is one.
bool lies_across(const MatrixView& view) { return view.col_stride != 1 && (view.row_stride == 1 || view.rows <= 1); }

/// The fused kernels read x and the weight in place.
std::string unsupported_layout(const LinearArgs& args) {
  if (!args.weight.present() || !is_half(args.y.dtype)) return {};
  if (args.x.col_stride != 1) return "lowrank_linear: x must be contiguous along its last dimension";
  if (args.weight.col_stride != 1 && !lies_across(args.weight))
    return "lowrank_linear: weight must be contiguous along one of its dimensions";
  return {};
}

/// Whether `view`'s rows (columns when `across`) are lines that can be read 16 bytes at a time.
bool wide_lines(const MatrixView& view, bool across) {
  return lines_of(across ? view.transposed() : view).copy_bytes == 16;
}

LinearProblem problem_of(const LinearArgs& args, const Context& context) {
  LinearProblem problem;
  problem.rows = args.y.rows, problem.out = args.y.cols, problem.in = args.x.cols, problem.rank = args.s.cols;
  problem.dtype = args.y.dtype;
  problem.has_weight = args.weight.present();
  problem.multiprocessors = std::max(1, multiprocessors(context.device));
  if (!is_half(problem.dtype)) return problem;
  const MatrixView& deciding = problem.has_weight ? args.weight : args.up;
  problem.weight_across = lies_across(deciding);
  if (problem.has_weight) problem.wide = wide_lines(args.x, false) && wide_lines(args.weight, problem.weight_across);
  return problem;
}

struct MmaOperands {
  Workspace workspace;
  FactorLines s, up;

  MmaOperands(const LinearArgs& args, const LinearProblem& problem, bool wide)
      : s(args.s, problem.dtype, wide, workspace),
        up(problem.weight_across ? args.up.transposed() : args.up, problem.dtype, wide, workspace) {}
};

Status run_mma(const LinearArgs& args, const LinearProblem& problem, const Candidate<LinearTile>& candidate,
               const Context& context, GlobalMemory& memory) {
  MmaOperands operands(args, problem, candidate.wide);
  if (Status status = operands.workspace.allocate("lowrank_linear", context, memory); !status.ok()) return status;
  if (Status status = pack_factors(problem.dtype, operands.workspace, context, operands.s, operands.up); !status.ok())
    return status;
  LinearMmaParameters parameters;
  if (problem.has_weight) {
    parameters.x = lines_of(args.x);
    parameters.weight = lines_of(problem.weight_across ? args.weight.transposed() : args.weight);
    parameters.in = int(problem.in);
  }
  parameters.s = operands.s.lines, parameters.up = operands.up.lines, parameters.rank = int(problem.rank);
  parameters.scale = float(args.scale), parameters.dropout = DropoutParameters(args.dropout);
  parameters.output = output_of(args.y, args.base, args.bias);
  return problem.dtype == DType::kBFloat16
             ? launch_linear_mma<BFloat16>(candidate.tile, problem.weight_across, parameters, context)
             : launch_linear_mma<Float16>(candidate.tile, problem.weight_across, parameters, context);
}

Status run_simt(const LinearArgs& args, const Candidate<LinearTile>& candidate, const Context& context) {
  LinearSimtParameters parameters;
  if (args.weight.present()) {
    parameters.x = float_operand(args.x), parameters.weight = float_operand(args.weight);
    parameters.in = int(args.x.cols);
  }
  parameters.s = float_operand(args.s), parameters.up = float_operand(args.up);
  parameters.rank = int(args.s.cols);
  parameters.scale = float(args.scale), parameters.dropout = DropoutParameters(args.dropout);
  parameters.output = output_of(args.y, args.base, args.bias);
  return launch_linear_simt(candidate.tile, parameters, context);
}

}  // namespace

Plan plan_linear(const LinearArgs& original, const Context& context) {
  const LinearArgs args = simplified(original);
  if (const std::string reason = unsupported(args); !reason.empty()) {
    Plan plan;
    plan.kernel = "none", plan.reason = reason;
    return plan;
  }
  const LinearProblem problem = problem_of(args, context);
  const Choice<LinearTile> choice = choose_linear(problem, forced_kernel());
  if (choice.library_gemm || !is_half(problem.dtype)) return choice.plan(0);
  return choice.plan(MmaOperands(args, problem, choice.candidate->wide).workspace.bytes());
}

bool library_linear(const LinearArgs& original, const Context& context) {
  if (!original.weight.present()) return false;
  const LinearArgs args = simplified(original);
  return unsupported(args).empty() && prefers_library(problem_of(args, context), forced_kernel());
}

Status run_linear(const LinearArgs& original, const Context& context) {
  const LinearArgs args = simplified(original);
  if (const std::string reason = unsupported(args); !reason.empty()) return Status::unsupported(reason);
  if (args.y.rows == 0 || args.y.cols == 0) return {};
  const LinearProblem problem = problem_of(args, context);
  if (const std::string reason = unsupported_layout(args); !reason.empty()) return Status::unsupported(reason);
  const Choice<LinearTile> choice = choose_linear(problem, forced_kernel());
  GlobalMemory memory;
  memory.reads(args.x, "x").reads(args.weight, "weight").reads(args.base, "base").reads(args.bias, "bias");
  memory.reads(args.s, "s").reads(args.up, "up").reads(args.dropout.seed, sizeof(int64_t), "seed");
  memory.writes(args.y, "y");
  // Called with a weight although the plan prefers the library: the fused kernel it would have chosen runs.
  record_dispatch(choice.library_gemm ? choice.rejected.front().kernel : choice.kernel);
  return is_half(problem.dtype) ? run_mma(args, problem, *choice.candidate, context, memory)
                                : run_simt(args, *choice.candidate, context);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
