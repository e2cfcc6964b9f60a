// Host side of Givens rounds: which kernel, its tile, and the chain of launches.
#include "cuda/orthogonal/givens.cuh"

#include <limits>

#include "cuda/orthogonal/launchers.cuh"
#include "device/global_memory.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {
namespace {

constexpr int kMostTileRows = 8;

/// What forward and backward have in common.
struct GivensProblem {
  const char* operation;
  GivensRounds rounds;
  int64_t rows = 0, features = 0;
  DType dtype = DType::kFloat32;
  bool backward = false;

  int64_t pairs() const { return rounds.angles.cols; }
  int64_t entries() const { return rounds.angles.rows * pairs(); }
};

struct GivensChoice {
  std::string kernel, reason;
  bool in_shared = false;
  int tile_rows = 0;
  int64_t blocks = 1;  // that have sums of their own
  std::vector<Rejected> rejected;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string unsupported(const GivensProblem& problem) {
  const std::string name = problem.operation;
  if (problem.dtype == DType::kFloat64) return name + ": float64 has no CUDA kernel";
  if (problem.rounds.angles.dtype != DType::kFloat32 || problem.rounds.angles.col_stride != 1)
    return name + ": angles must be float32, one round after the other";
  if (problem.features > std::numeric_limits<int>::max() / 2 || problem.rounds.angles.rows > std::numeric_limits<int>::max())
    return name + ": an extent is too large";
  return {};
}

GivensChoice choose(const GivensProblem& problem, const Context& context) {
  GivensChoice choice;
  const int64_t tiles_a_row = problem.backward ? 2 : 1, processors = std::max(1, multiprocessors(context.device));
  const int64_t row_bytes = tiles_a_row * padded_floats(problem.features) * 4;
  const int64_t shared = int64_t(shared_bytes_of_block(context.device));
  const std::string name = problem.backward ? "givens_backward_sm80_" : "givens_sm80_", forced = forced_kernel();
  const std::string passes = name + "passes";
  const bool wants_passes = !forced.empty() && passes.find(forced) != std::string::npos &&
                            (name + "tile").find(forced) == std::string::npos;
  choice.in_shared = row_bytes <= shared && !wants_passes;
  if (choice.in_shared) {
    // Two tiles an SM hide each other's latencies; more rows than every SM has are of no use to anybody.
    const int64_t fit = std::max<int64_t>(1, (shared / 2 - 1024) / row_bytes);
    const int64_t share = std::max<int64_t>(1, ceil_div(problem.rows, 2 * processors));
    choice.tile_rows = int(std::min<int64_t>({fit, share, kMostTileRows}));
    choice.blocks = std::min(ceil_div(problem.rows, choice.tile_rows), 2 * processors);
    choice.kernel = name + "tile_r" + std::to_string(choice.tile_rows);
    choice.reason = "rows fit into shared memory";
    choice.rejected.push_back({passes, "goes through global memory a pass"});
  } else {
    choice.blocks = std::min<int64_t>(ceil_div(problem.rows, kMostTileRows), 2 * processors);
    choice.kernel = passes;
    choice.reason = wants_passes ? "forced by \"" + forced + "\"" : "a row does not fit into shared memory";
    choice.rejected.push_back({name + "tile", wants_passes ? "another one is forced" : choice.reason});
  }
  return choice;
}

/// Reserves and fills what the passes read: the table, and for the backward pass zeroed sums.
struct GivensMemory {
  Workspace workspace;
  size_t table = 0, partials = 0, first = 0, second = 0;

  GivensMemory(const GivensProblem& problem, const GivensChoice& choice, bool chained) {
    table = workspace.reserve(size_t(problem.entries()) * sizeof(float2));
    if (problem.backward) partials = workspace.reserve(size_t(choice.blocks * problem.entries()) * sizeof(float));
    if (!chained) return;
    first = workspace.reserve(size_t(problem.rows * problem.features) * sizeof(float));
    if (problem.backward) second = workspace.reserve(size_t(problem.rows * problem.features) * sizeof(float));
  }

  Status fill(const GivensProblem& problem, const GivensChoice& choice, const Context& context) const {
    GivensTableParameters parameters;
    parameters.angles = static_cast<const float*>(problem.rounds.angles.data);
    parameters.angles_stride = problem.rounds.angles.row_stride;
    parameters.rounds = problem.rounds.angles.rows, parameters.pairs = problem.pairs();
    parameters.inverse = problem.rounds.inverse;
    parameters.table = static_cast<float2*>(workspace.at(table));
    if (problem.backward) {
      parameters.partials = static_cast<float*>(workspace.at(partials));
      parameters.partials_count = choice.blocks * problem.entries();
    }
    const int64_t blocks = ceil_div(problem.entries(), kGivensThreads);
    if (blocks == 0) return {};
    if (Status status = check_grid(problem.operation, blocks); !status.ok()) return status;
    return launch(givens_table_kernel, LaunchConfig(dim3(unsigned(blocks)), dim3(kGivensThreads), 0, context), parameters);
  }

  /// Rows of floats between two launches.
  MutableMatrixView between(size_t offset, const GivensProblem& problem) const {
    return {workspace.at(offset), DType::kFloat32, problem.rows, problem.features, problem.features, 1};
  }
};

MatrixView constant(const MutableMatrixView& view) {
  return {view.data, view.dtype, view.rows, view.cols, view.row_stride, view.col_stride};
}

/// One launch of a chain. Forward: y = rounds of x. Backward: from y and grad to dx and y_before (which may be absent).
struct Link {
  MatrixView x, grad;
  MutableMatrixView y, y_before;
};

/// What tiles and passes are given alike.
template <class Parameters>
void fill(Parameters& parameters, const GivensProblem& problem, const GivensMemory& memory, const Link& link) {
  parameters.x = Rows<const void*>(link.x), parameters.y = Rows<void*>(link.y);
  parameters.rows = problem.rows, parameters.features = int(problem.features);
  parameters.table = static_cast<const float2*>(memory.workspace.at(memory.table)), parameters.pairs = problem.pairs();
  if (!problem.backward) return;
  parameters.grad = Rows<const void*>(link.grad);
  if (link.y_before.data != nullptr) parameters.y_before = Rows<void*>(link.y_before);
  parameters.partials = static_cast<float*>(memory.workspace.at(memory.partials));
  parameters.partials_stride = problem.entries();
}

Status launch_tiles(const GivensProblem& problem, const GivensChoice& choice, const GivensMemory& memory,
                    const GivensPass* begin, const GivensPass* end, const Link& link, const Context& context) {
  GivensTileParameters parameters;
  fill(parameters, problem, memory, link);
  parameters.tile_rows = choice.tile_rows, parameters.row_floats = padded_floats(problem.features);
  parameters.passes.count = int32_t(end - begin);
  std::copy(begin, end, parameters.passes.pass);
  const int64_t blocks = problem.backward ? choice.blocks : ceil_div(problem.rows, choice.tile_rows);
  if (Status status = check_grid(problem.operation, blocks); !status.ok()) return status;
  const size_t shared = size_t(choice.tile_rows * parameters.row_floats) * sizeof(float) * (problem.backward ? 2 : 1);
  const LaunchConfig config(dim3(unsigned(blocks)), dim3(kGivensThreads), shared, context);
  return launch(problem.backward ? givens_tile_backward_kernel : givens_tile_kernel, config, parameters);
}

Status launch_pass(const GivensProblem& problem, const GivensChoice& choice, const GivensMemory& memory,
                   const GivensPass& pass, const Link& link, const Context& context) {
  GivensPassParameters parameters;
  fill(parameters, problem, memory, link);
  parameters.rows_a_block = ceil_div(problem.rows, choice.blocks);
  parameters.pass = pass;
  const dim3 grid(unsigned(std::min<int64_t>(ceil_div(pass.groups, kGivensThreads), 1024)), unsigned(choice.blocks));
  return launch(problem.backward ? givens_pass_kernel<true> : givens_pass_kernel<false>,
                LaunchConfig(grid, dim3(kGivensThreads), 0, context), parameters);
}

/// The launches from `from` to `to`, whose y (and y_before) are absent between: floats in the workspace.
Status run_chain(const GivensProblem& problem, const Link& ends, GivensMemory& memory, const GivensChoice& choice,
                 std::vector<GivensPass> passes, const Context& context) {
  if (passes.empty() && !choice.in_shared) {
    // A round without pairs: every column goes over as it is.
    passes.emplace_back();
    passes[0].rounds = 1, passes[0].unit = passes[0].groups = int32_t(problem.features);
  }
  const int64_t step = choice.in_shared ? GivensPasses::kMost : 1, count = int64_t(passes.size());
  const int64_t links = std::max<int64_t>(1, ceil_div(count, step));
  Link link = ends;
  for (int64_t index = 0; index < links; ++index) {
    const int64_t which = problem.backward ? links - 1 - index : index;
    const bool last = index == links - 1;
    link.y = last ? ends.y : memory.between(problem.backward ? memory.second : memory.first, problem);
    if (problem.backward) link.y_before = last ? MutableMatrixView{} : memory.between(memory.first, problem);
    const GivensPass* const begin = passes.data() + which * step;
    const GivensPass* const end = passes.data() + std::min(count, (which + 1) * step);
    const Status status = choice.in_shared ? launch_tiles(problem, choice, memory, begin, end, link, context)
                                           : launch_pass(problem, choice, memory, *begin, link, context);
    if (!status.ok()) return status;
    if (problem.backward)
      link.x = constant(link.y_before), link.grad = constant(link.y);
    else
      link.x = constant(link.y);
  }
  return {};
}

std::vector<GivensPass> passes_for(const GivensProblem& problem) {
  return passes_of(problem.rounds, problem.features, problem.backward ? kMostBackwardRounds : kMostRounds);
}

bool is_chained(const GivensChoice& choice, const std::vector<GivensPass>& passes) {
  return passes.size() > (choice.in_shared ? size_t(GivensPasses::kMost) : 1);
}

Plan plan(const GivensProblem& problem, const Context& context) {
  Plan plan;
  plan.kernel = "none", plan.reason = unsupported(problem);
  if (!plan.reason.empty()) return plan;
  const GivensChoice choice = choose(problem, context);
  plan.kernel = choice.kernel, plan.reason = choice.reason, plan.rejected = choice.rejected;
  plan.workspace_bytes = GivensMemory(problem, choice, is_chained(choice, passes_for(problem))).workspace.bytes();
  return plan;
}

Status run(const GivensProblem& problem, const Link& ends, const MutableMatrixView& dangles, GlobalMemory& operands,
           const Context& context) {
  if (const std::string reason = unsupported(problem); !reason.empty()) return Status::unsupported(reason);
  if (problem.rows == 0 || problem.features == 0) return {};
  const GivensChoice choice = choose(problem, context);
  std::vector<GivensPass> passes = passes_for(problem);
  GivensMemory memory(problem, choice, is_chained(choice, passes));
  if (Status status = memory.workspace.allocate(problem.operation, context, operands); !status.ok()) return status;
  record_dispatch(choice.kernel);
  if (Status status = memory.fill(problem, choice, context); !status.ok()) return status;
  if (Status status = run_chain(problem, ends, memory, choice, std::move(passes), context); !status.ok()) return status;
  if (!problem.backward || problem.entries() == 0) return {};
  SplitSumParameters<AngleGradOutput> sums;
  sums.partials = static_cast<const float*>(memory.workspace.at(memory.partials));
  sums.splits = int(choice.blocks), sums.rows = int(problem.rounds.angles.rows), sums.cols = int(problem.pairs());
  sums.output.dangles = MutableElementView(dangles);
  sums.output.rounds = sums.rows, sums.output.inverse = problem.rounds.inverse;
  return launch_split_sum(problem.operation, sums, context);
}

GivensProblem problem_of(const GivensArgs& args) {
  return {"givens_apply", args.rounds, args.x.rows, args.x.cols, args.x.dtype, false};
}

GivensProblem problem_of(const GivensBackwardArgs& args) {
  return {"givens_backward", args.rounds, args.y.rows, args.y.cols, args.y.dtype, true};
}

}  // namespace

Plan plan_givens(const GivensArgs& args, const Context& context) { return plan(problem_of(args), context); }

Status run_givens(const GivensArgs& args, const Context& context) {
  GlobalMemory operands;
  operands.reads(args.x, "x").reads(args.rounds.angles, "angles").writes(args.y, "y");
  Link ends;
  ends.x = args.x, ends.y = args.y;
  return run(problem_of(args), ends, {}, operands, context);
}

Plan plan_givens_backward(const GivensBackwardArgs& args, const Context& context) {
  return plan(problem_of(args), context);
}

Status run_givens_backward(const GivensBackwardArgs& args, const Context& context) {
  GlobalMemory operands;
  operands.reads(args.y, "y").reads(args.grad, "grad").reads(args.rounds.angles, "angles");
  operands.writes(args.dx, "dx").writes(args.dangles, "dangles");
  Link ends;
  ends.x = args.y, ends.grad = args.grad, ends.y = args.dx;
  return run(problem_of(args), ends, args.dangles, operands, context);
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
