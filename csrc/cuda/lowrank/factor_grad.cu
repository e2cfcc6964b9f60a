// Host side of factor_grad: grad = scale * sT drop(x), a sum over x's rows for each of rank x cols outputs.
#include "cuda/lowrank/split_run.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

SplitRun<FactorGradOutput> split_run(const FactorGradArgs& args, const Context& context) {
  SplitRun<FactorGradOutput> run;
  run.operation = "lowrank_factor_grad";
  run.x = canonical(args.x), run.factor = canonical(args.s);
  run.across = true;
  run.dropout = args.dropout;
  SplitProblem& problem = run.problem;
  problem.operation = "factor_grad";
  problem.extent = args.x.cols, problem.rank = args.s.cols;
  problem.sum = args.dropout.probability >= 1.0 ? 0 : args.x.rows;  // everything is dropped, NaN included
  problem.dtype = args.x.dtype;
  problem.wide = lines_of(run.x).copy_bytes == 16;
  problem.multiprocessors = std::max(1, multiprocessors(context.device));
  run.output.grad = MutableElementView(args.grad);
  run.output.scale = float(args.scale) * DropoutParameters(args.dropout).scale;
  return run;
}

}  // namespace

Plan plan_factor_grad(const FactorGradArgs& args, const Context& context) { return split_run(args, context).plan(); }
Status run_factor_grad(const FactorGradArgs& args, const Context& context) {
  GlobalMemory memory;
  memory.reads(args.s, "s").reads(args.x, "x").reads(args.dropout.seed, sizeof(int64_t), "seed");
  memory.writes(args.grad, "grad");
  return split_run(args, context).run(context, memory);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
