// What project and factor_grad share on the host: the problem they pose, their workspace and the two launches.
#pragma once

#include <type_traits>

#include "cuda/lowrank/launchers.cuh"
#include "cuda/lowrank/operands.cuh"
#include "device/split_sum.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// `x` is the large operand as [rows, cols]; `factor` the small one, with the sum's index for columns when the sum runs
/// over x's columns, for rows when it runs over x's rows.
template <class Output>
struct SplitRun {
  const char* operation;  // "lowrank_project" or "lowrank_factor_grad"
  MatrixView x, factor;
  bool across = false;  // the sum runs over x's rows
  SplitProblem problem;
  Dropout dropout;
  Output output;

  int64_t output_rows() const { return across ? problem.rank : problem.extent; }
  int64_t output_cols() const { return across ? problem.extent : problem.rank; }

  std::string unsupported() const {
    const std::string name = operation;
    if (x.dtype == DType::kFloat64) return name + ": float64 has no CUDA kernel";
    if (factor.dtype != x.dtype && factor.dtype != DType::kFloat32)
      return name + ": a factor of " + name_of(factor.dtype) + " with x of " + name_of(x.dtype);
    for (const int64_t extent : {x.rows, x.cols, problem.rank})
      if (!fits_int(extent)) return name + ": an extent of " + std::to_string(extent) + " is too large";
    if (is_half(x.dtype) && x.col_stride != 1) return name + ": x must be contiguous along its last dimension";
    return {};
  }

  struct Layout {
    Choice<SplitTile> choice;
    Workspace workspace;
    size_t partials = 0;
  };

  Layout layout() const {
    Layout result;
    result.choice = choose_split(problem, forced_kernel());
    if (result.choice.splits > 1)
      result.partials = result.workspace.reserve(size_t(result.choice.splits) * size_t(output_rows()) *
                                                 size_t(output_cols()) * sizeof(float));
    return result;
  }

  Plan plan() const {
    Plan none;
    none.kernel = "none", none.reason = unsupported();
    if (!none.reason.empty()) return none;
    Layout result = layout();
    if (is_half(x.dtype)) factor_lines(result);
    return result.choice.plan(result.workspace.bytes());
  }

  /// `memory` names the operands of the operation.
  Status run(const Context& context, GlobalMemory& memory) const {
    if (const std::string reason = unsupported(); !reason.empty()) return Status::unsupported(reason);
    if (problem.extent == 0 || problem.rank == 0) return {};
    Layout result = layout();
    record_dispatch(result.choice.kernel);
    Status status = is_half(x.dtype) ? start_mma(result, context, memory) : start_simt(result, context, memory);
    if (!status.ok() || result.choice.splits == 1) return status;
    SplitSumParameters<Output> parameters;
    parameters.partials = static_cast<const float*>(result.workspace.at(result.partials));
    parameters.splits = result.choice.splits;
    parameters.rows = int(output_rows()), parameters.cols = int(output_cols());
    parameters.output = output;
    return launch_split_sum(operation, parameters, context);
  }

 private:
  float* partials_of(const Layout& result) const {
    return result.choice.splits > 1 ? static_cast<float*>(result.workspace.at(result.partials)) : nullptr;
  }

  /// project reads its factor along the rank when it lies so (the transposed `up` of the backward pass).
  bool factor_across() const { return !across && factor.col_stride != 1 && factor.row_stride == 1; }

  FactorLines factor_lines(Layout& result) const {
    return FactorLines(factor_across() ? factor.transposed() : factor, x.dtype, result.choice.candidate->wide,
                       result.workspace);
  }

  Status start_mma(Layout& result, const Context& context, GlobalMemory& memory) const {
    FactorLines lines = factor_lines(result);
    if (Status status = result.workspace.allocate(operation, context, memory); !status.ok()) return status;
    if (Status status = pack_factors(x.dtype, result.workspace, context, lines); !status.ok()) return status;
    SplitMmaParameters<Output> parameters;
    parameters.x = lines_of(x), parameters.factor = lines.lines;
    parameters.extent_m = int(problem.extent), parameters.rank = int(problem.rank);
    parameters.sum_length = int(problem.sum);
    parameters.splits = result.choice.splits, parameters.blocks_per_split = result.choice.blocks_per_split;
    parameters.dropout = DropoutParameters(dropout);
    parameters.partials = partials_of(result);
    parameters.output = output;
    return x.dtype == DType::kBFloat16 ? launch_mma<BFloat16>(result.choice.candidate->tile, parameters, context)
                                       : launch_mma<Float16>(result.choice.candidate->tile, parameters, context);
  }

  template <class T>
  Status launch_mma(SplitTile tile, const SplitMmaParameters<Output>& parameters, const Context& context) const {
    if constexpr (std::is_same_v<Output, ProjectOutput>)
      return launch_project_mma<T>(tile, factor_across(), parameters, context);
    else
      return launch_factor_grad_mma<T>(tile, parameters, context);
  }

  Status start_simt(Layout& result, const Context& context, GlobalMemory& memory) const {
    if (Status status = result.workspace.allocate(operation, context, memory); !status.ok()) return status;
    SplitSimtParameters<Output> parameters;
    parameters.a = float_operand(across ? x.transposed() : x);
    parameters.b = float_operand(across ? factor.transposed() : factor);
    parameters.dropout.dropout = DropoutParameters(dropout);
    parameters.dropout.stride = across ? 1 : x.cols, parameters.dropout.sum_stride = across ? x.cols : 1;
    parameters.sum_length = int(problem.sum);
    parameters.splits = result.choice.splits, parameters.blocks_per_split = result.choice.blocks_per_split;
    parameters.partials = partials_of(result);
    parameters.output = output;
    return launch_split_simt(result.choice.candidate->tile, parameters, context);
  }
};

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
