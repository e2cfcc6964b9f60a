// Host side of the indexed products: layouts, path choice, launch.
#include "cuda/lowrank/indexed_run.cuh"

#include "cuda/lowrank/indexed_launchers.cuh"
#include "cuda/lowrank/indexed_route.cuh"
#include "cuda/lowrank/operands.cuh"
#include "device/split_sum.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

constexpr char kOperation[] = "lowrank_linear_indexed";

std::string unsupported(DType dtype, std::initializer_list<const MatrixView*> operands,
                        std::initializer_list<int64_t> extents) {
  const std::string name = kOperation;
  if (dtype == DType::kFloat64) return name + ": float64 has no CUDA kernel";
  for (const MatrixView* view : operands)
    if (view->present() && view->dtype != dtype)
      return name + ": an operand of " + name_of(view->dtype) + " among " + name_of(dtype);
  for (const int64_t extent : extents)
    if (!fits_int(extent)) return name + ": an extent of " + std::to_string(extent) + " is too large";
  return {};
}

Status status_of(const std::string& reason) { return reason.empty() ? Status{} : Status::unsupported(reason); }

StackView canonical_stack(StackView stack) {
  stack.first = canonical(stack.first);
  if (stack.count <= 1) stack.stack_stride = 0;
  return stack;
}

/// The factors lie across the sum over their columns.
bool lies_across(const StackView& stack) { return stack.first.col_stride != 1 && stack.first.row_stride == 1; }

FactorStack factor_stack(const StackView& stack, bool across) {
  FactorStack factors;
  factors.lines = lines_of(across ? stack.first.transposed() : stack.first), factors.stack_stride = stack.stack_stride;
  const int64_t bytes = stack.stack_stride * 2;
  factors.lines.copy_bytes = std::min(factors.lines.copy_bytes, bytes % 16 == 0 ? 16 : bytes % 4 == 0 ? 4 : 2);
  return factors;
}

FloatStack float_stack(const StackView& stack) { return {float_operand(stack.first), stack.stack_stride}; }

bool is_wide(const Lines& lines) { return lines.copy_bytes == 16; }

void reads_stack(GlobalMemory& memory, const StackView& stack, const char* name) {
  for (int64_t i = 0; i < stack.count; ++i) memory.reads(stack.at(i), name);
}

void reads_routing(GlobalMemory& memory, const Routing& routing) {
  memory.reads(routing.order, size_t(routing.rows) * 4, "order");
  memory.reads(routing.segments_of_rows, size_t(routing.rows) * 4, "segments of rows");
  memory.reads(routing.offsets, size_t(routing.segments() + 1) * 4, "offsets");
  memory.reads(routing.ranks, size_t(routing.adapters) * 4, "ranks");
  memory.reads(routing.tiles, size_t(routing.tiles_bound) * sizeof(RowTile), "tiles");
}

// --- project ---

struct ProjectLayout {
  IndexedProblem problem;
  Choice<IndexedTile> choice;
  Workspace workspace;
  size_t partials = 0;

  ProjectLayout(const IndexedProjectArgs& args, int64_t rows, int64_t adapters, const Context& context) {
    problem.product = IndexedProduct::kProject, problem.rank = args.s.cols, problem.dtype = args.x.dtype;
    problem.tile_rows = indexed_tile_rows(rows, adapters);
    const StackView downs = canonical_stack(args.downs);
    problem.across = lies_across(downs);
    if (is_half(problem.dtype))
      problem.wide = is_wide(lines_of(canonical(args.x))) && is_wide(factor_stack(downs, problem.across).lines);
    choice = choose_indexed(problem, forced_kernel());
    const int64_t rank_tiles = (problem.rank + choice.candidate->tile_n - 1) / choice.candidate->tile_n;
    split_indexed_sum(args.x.cols, indexed_tiles_bound(rows, adapters) * rank_tiles,
                      std::max(1, multiprocessors(context.device)), choice);
    if (choice.splits > 1)
      partials = workspace.reserve(size_t(choice.splits) * size_t(rows) * size_t(problem.rank) * sizeof(float));
  }
};

std::string unsupported(const IndexedProjectArgs& args) {
  return unsupported(args.x.dtype, {&args.x, &args.downs.first}, {args.x.rows, args.x.cols, args.s.cols});
}

template <class Parameters>
void set_project(Parameters& parameters, const ProjectLayout& layout, const IndexedProjectArgs& args,
                 const Routing& routing) {
  parameters.routed = RoutedRows(routing);
  parameters.rows = int(args.x.rows), parameters.in = int(args.x.cols), parameters.rank = int(args.s.cols);
  parameters.splits = layout.choice.splits, parameters.blocks_per_split = layout.choice.blocks_per_split;
  if (layout.choice.splits > 1) parameters.partials = static_cast<float*>(layout.workspace.at(layout.partials));
  IndexedProjectOutput& output = parameters.output;
  output.s = MutableElementView(args.s);
  if (args.projected.present()) output.projected = MutableElementView(args.projected);
  if (args.scales.present()) output.scales = ElementView(args.scales);
  output.segments_of_rows = routing.segments_of_rows, output.adapters = int(routing.adapters);
}

Status start_project(const ProjectLayout& layout, const IndexedProjectArgs& args, const Routing& routing,
                     const Context& context, IndexedProjectOutput& output) {
  const StackView downs = canonical_stack(args.downs);
  const IndexedTile tile = layout.choice.candidate->tile;
  if (!is_half(args.x.dtype)) {
    IndexedProjectSimtParameters parameters;
    set_project(parameters, layout, args, routing);
    parameters.x = float_operand(canonical(args.x)), parameters.downs = float_stack(downs);
    output = parameters.output;
    return launch_indexed_project(tile, routing.tiles_bound, parameters, context);
  }
  IndexedProjectMmaParameters parameters;
  set_project(parameters, layout, args, routing);
  parameters.x = lines_of(canonical(args.x)), parameters.downs = factor_stack(downs, layout.problem.across);
  output = parameters.output;
  return args.x.dtype == DType::kBFloat16
             ? launch_indexed_project<BFloat16>(tile, layout.problem.across, routing.tiles_bound, parameters, context)
             : launch_indexed_project<Float16>(tile, layout.problem.across, routing.tiles_bound, parameters, context);
}

// --- linear ---

IndexedLinearArgs simplified(IndexedLinearArgs args) {
  args.x = canonical(args.x), args.weight = canonical(args.weight), args.s = canonical(args.s);
  args.base = canonical(args.base), args.ups = canonical_stack(args.ups);
  return args;
}

std::string unsupported(const IndexedLinearArgs& args) {
  return unsupported(args.y.dtype, {&args.x, &args.weight, &args.s, &args.ups.first, &args.base},
                     {args.y.rows, args.y.cols, args.s.cols, args.x.cols});
}

IndexedProblem problem_of(const IndexedLinearArgs& args, int64_t adapters) {
  IndexedProblem problem;
  problem.product = IndexedProduct::kLinear, problem.rank = args.s.cols, problem.dtype = args.y.dtype;
  problem.tile_rows = indexed_tile_rows(args.y.rows, adapters);
  problem.has_weight = args.weight.present();
  if (!is_half(problem.dtype)) return problem;
  problem.across = lies_across(args.ups);
  problem.wide = is_wide(lines_of(args.s)) && is_wide(factor_stack(args.ups, problem.across).lines);
  if (problem.has_weight)
    problem.wide = problem.wide && is_wide(lines_of(args.x)) &&
                   is_wide(lines_of(problem.across ? args.weight.transposed() : args.weight));
  return problem;
}

/// One layout serves weight and factors; a weight that lies the other way is another product.
bool lies_as_factors(const MatrixView& weight, bool across) {
  return !is_half(weight.dtype) || (across ? weight.row_stride == 1 || weight.rows <= 1 : weight.col_stride == 1);
}

// --- factor_grad ---

IndexedProblem problem_of(const IndexedFactorGradArgs& args) {
  IndexedProblem problem;
  problem.product = IndexedProduct::kFactorGrad, problem.rank = args.s.cols, problem.dtype = args.x.dtype;
  if (is_half(problem.dtype)) problem.wide = is_wide(lines_of(canonical(args.x))) && is_wide(lines_of(canonical(args.s)));
  return problem;
}

std::string unsupported(const IndexedFactorGradArgs& args) {
  return unsupported(args.x.dtype, {&args.x, &args.s}, {args.x.rows, args.x.cols, args.s.cols});
}

IndexedGradOutput output_of(const IndexedFactorGradArgs& args) {
  IndexedGradOutput output;
  output.grads = MutableElementView(args.grads.first), output.stack_stride = args.grads.stack_stride;
  if (args.scales.present()) output.scales = ElementView(args.scales);
  return output;
}

Plan no_plan(const std::string& reason) {
  Plan plan;
  plan.kernel = "none", plan.reason = reason;
  return plan;
}

}  // namespace

Plan plan_indexed_project(const IndexedProjectArgs& args, const RouteArgs& route, const Context& context) {
  if (const std::string reason = unsupported(args); !reason.empty()) return no_plan(reason);
  const ProjectLayout layout(args, route.rows, route.adapters, context);
  return layout.choice.plan(layout.workspace.bytes());
}

Status run_indexed_project(const IndexedProjectArgs& args, const Routing& routing, const Context& context) {
  if (const std::string reason = unsupported(args); !reason.empty()) return status_of(reason);
  if (args.s.rows == 0 || args.s.cols == 0) return {};
  ProjectLayout layout(args, routing.rows, routing.adapters, context);
  GlobalMemory memory;
  memory.reads(args.x, "x").reads(args.scales, "scales").writes(args.s, "s").writes(args.projected, "projected");
  reads_stack(memory, args.downs, "downs"), reads_routing(memory, routing);
  if (Status status = layout.workspace.allocate(kOperation, context, memory); !status.ok()) return status;
  record_dispatch(layout.choice.kernel);
  SplitSumParameters<IndexedProjectOutput> sum;
  Status status = start_project(layout, args, routing, context, sum.output);
  if (!status.ok() || layout.choice.splits == 1) return status;
  sum.partials = static_cast<const float*>(layout.workspace.at(layout.partials)), sum.splits = layout.choice.splits;
  sum.rows = int(args.s.rows), sum.cols = int(args.s.cols);
  return launch_split_sum(kOperation, sum, context);
}

Plan plan_indexed_linear(const IndexedLinearArgs& original, const RouteArgs& route, const Context&) {
  const IndexedLinearArgs args = simplified(original);
  if (const std::string reason = unsupported(args); !reason.empty()) return no_plan(reason);
  return choose_indexed(problem_of(args, route.adapters), forced_kernel()).plan(0);
}

Status run_indexed_linear(const IndexedLinearArgs& original, const Routing& routing, const Context& context) {
  const IndexedLinearArgs args = simplified(original);
  if (const std::string reason = unsupported(args); !reason.empty()) return status_of(reason);
  if (args.y.rows == 0 || args.y.cols == 0) return {};
  const IndexedProblem problem = problem_of(args, routing.adapters);
  const Choice<IndexedTile> choice = choose_indexed(problem, forced_kernel());
  GlobalMemory memory;
  memory.reads(args.x, "x").reads(args.weight, "weight").reads(args.base, "base").reads(args.bias, "bias");
  memory.reads(args.s, "s").writes(args.y, "y");
  reads_stack(memory, args.ups, "ups"), reads_routing(memory, routing);
  record_dispatch(choice.kernel);
  const LinearOutput output = output_of(args.y, args.base, args.bias);
  if (!is_half(problem.dtype)) {
    IndexedLinearSimtParameters parameters;
    parameters.routed = RoutedRows(routing), parameters.output = output;
    parameters.s = float_operand(args.s), parameters.ups = float_stack(args.ups);
    if (problem.has_weight)
      parameters.x = float_operand(args.x), parameters.weight = float_operand(args.weight),
      parameters.in = int(args.x.cols);
    return launch_indexed_linear(routing.tiles_bound, parameters, context);
  }
  IndexedLinearMmaParameters parameters;
  parameters.routed = RoutedRows(routing), parameters.output = output;
  parameters.tiles_bound = int(routing.tiles_bound);
  parameters.s = lines_of(args.s), parameters.ups = factor_stack(args.ups, problem.across);
  if (problem.has_weight) {
    parameters.x = lines_of(args.x), parameters.in = int(args.x.cols);
    parameters.weight = lines_of(problem.across ? args.weight.transposed() : args.weight);
  }
  return problem.dtype == DType::kBFloat16
             ? launch_indexed_linear<BFloat16>(choice.candidate->tile, problem.across, parameters, context)
             : launch_indexed_linear<Float16>(choice.candidate->tile, problem.across, parameters, context);
}

/// The library's, until fusing is measured faster; and where weight and factors lie differently, which takes one kernel
/// for each.
bool indexed_dense_apart(const IndexedLinearArgs& original, const Context&) {
  const IndexedLinearArgs args = simplified(original);
  if (!unsupported(args).empty()) return true;
  const IndexedProblem problem = problem_of(args, args.ups.count);
  if (!lies_as_factors(args.weight, problem.across)) return true;
  const std::string forced = forced_kernel();
  if (forced.empty()) return !kEmulated;
  if (choose_indexed(problem, forced).kernel.find(forced) != std::string::npos) return false;
  return !kEmulated || std::string("library_gemm").find(forced) != std::string::npos;
}

Plan plan_indexed_grad(const IndexedFactorGradArgs& args, const RouteArgs&, const Context&) {
  if (const std::string reason = unsupported(args); !reason.empty()) return no_plan(reason);
  return choose_indexed(problem_of(args), forced_kernel()).plan(0);
}

Status run_indexed_grad(const IndexedFactorGradArgs& args, const Routing& routing, const Context& context) {
  if (const std::string reason = unsupported(args); !reason.empty()) return status_of(reason);
  if (args.grads.count == 0 || args.s.cols == 0 || args.x.cols == 0) return {};
  const Choice<IndexedTile> choice = choose_indexed(problem_of(args), forced_kernel());
  GlobalMemory memory;
  memory.reads(args.x, "x").reads(args.s, "s").reads(args.scales, "scales");
  for (int64_t i = 0; i < args.grads.count; ++i) memory.writes(args.grads.at(i), "grads");
  reads_routing(memory, routing);
  record_dispatch(choice.kernel);
  if (!is_half(args.x.dtype)) {
    IndexedGradSimtParameters parameters;
    parameters.routed = RoutedRows(routing), parameters.output = output_of(args);
    parameters.cols = int(args.x.cols), parameters.rank = int(args.s.cols);
    parameters.x = float_operand(args.x.transposed()), parameters.s = float_operand(args.s.transposed());
    return launch_indexed_grad(choice.candidate->tile, parameters, context);
  }
  IndexedGradMmaParameters parameters;
  parameters.routed = RoutedRows(routing), parameters.output = output_of(args);
  parameters.cols = int(args.x.cols), parameters.rank = int(args.s.cols);
  parameters.x = lines_of(canonical(args.x)), parameters.s = lines_of(canonical(args.s));
  return args.x.dtype == DType::kBFloat16
             ? launch_indexed_grad<BFloat16>(choice.candidate->tile, parameters, context)
             : launch_indexed_grad<Float16>(choice.candidate->tile, parameters, context);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
