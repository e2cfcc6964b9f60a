// Host side of project: s = scale * gate . (drop(x) downT), a sum along x's rows for each of rows x rank outputs.
#include "cuda/lowrank/split_run.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

SplitRun<ProjectOutput> split_run(const ProjectArgs& args, const Context& context) {
  SplitRun<ProjectOutput> run;
  run.operation = "lowrank_project";
  run.x = canonical(args.x), run.factor = canonical(args.down);
  run.dropout = args.dropout;
  SplitProblem& problem = run.problem;
  problem.operation = "project";
  problem.extent = args.x.rows, problem.rank = args.down.rows;
  problem.sum = args.dropout.probability >= 1.0 ? 0 : args.x.cols;  // everything is dropped, NaN included
  problem.dtype = args.x.dtype;
  problem.wide = lines_of(run.x).copy_bytes == 16;
  problem.multiprocessors = std::max(1, multiprocessors(context.device));
  run.output.s = MutableElementView(args.s);
  if (args.projected.present()) run.output.projected = MutableElementView(args.projected);
  if (args.gate.present()) run.output.gate = ElementView(args.gate);
  run.output.scale = float(args.scale), run.output.dropout_scale = DropoutParameters(args.dropout).scale;
  return run;
}

}  // namespace

Plan plan_project(const ProjectArgs& args, const Context& context) { return split_run(args, context).plan(); }
Status run_project(const ProjectArgs& args, const Context& context) {
  GlobalMemory memory;
  memory.reads(args.x, "x").reads(args.down, "down").reads(args.gate, "gate");
  memory.reads(args.dropout.seed, sizeof(int64_t), "seed");
  memory.writes(args.s, "s").writes(args.projected, "projected");
  return split_run(args, context).run(context, memory);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
