// lowrank_indexed_cpu(): picks the sum type, names and records what runs.
#include "cpu/lowrank/heuristics.h"
#include "cpu/lowrank/indexed.h"
#include "cpu/lowrank/indexed_route.h"

namespace lrk {
namespace {

bool sums_in_double(DType dtype) { return dtype == DType::kFloat64; }

Plan only_kernel(std::string kernel, std::string reason, size_t workspace) {
  Plan plan;
  plan.kernel = std::move(kernel), plan.reason = std::move(reason), plan.workspace_bytes = workspace;
  plan.hardware_verified = cpu::kTestedOnHardware;
  return plan;
}

Plan plan_project(const IndexedProjectArgs& args, const RouteArgs&, const Context&) {
  return only_kernel(cpu::indexed_project_name(args.x.dtype),
                     "rows sorted by adapter: x and the factors in use are read once", 0);
}

Plan plan_linear(const IndexedLinearArgs& args, const RouteArgs&, const Context&) {
  const size_t bias = args.bias.present() ? cpu::Workspace::padded(size_t(args.y.cols) *
                                                                   (sums_in_double(args.y.dtype) ? 8 : 4))
                                          : 0;
  return only_kernel(cpu::indexed_expand_name(args.y.dtype),
                     "rows sorted by adapter: y is written once, the factors in use are read once", bias);
}

Plan plan_factor_grad(const IndexedFactorGradArgs& args, const RouteArgs&, const Context&) {
  return only_kernel(cpu::indexed_factor_grad_name(args.x.dtype), "rows sorted by adapter: x is read once",
                     sums_in_double(args.x.dtype) ? cpu::indexed_factor_grad_workspace<double>(args)
                                                  : cpu::indexed_factor_grad_workspace<float>(args));
}

Status project(const IndexedProjectArgs& args, const Routing& routing, const Context& context) {
  if (args.s.rows == 0 || args.s.cols == 0) return {};
  record_dispatch(cpu::indexed_project_name(args.x.dtype));
  return sums_in_double(args.x.dtype) ? cpu::indexed_project<double>(args, routing, context)
                                      : cpu::indexed_project<float>(args, routing, context);
}

Status linear(const IndexedLinearArgs& args, const Routing& routing, const Context& context) {
  if (args.weight.present()) return Status::unsupported("lowrank_linear_indexed: the CPU kernel takes a base, no weight");
  if (args.y.rows == 0 || args.y.cols == 0) return {};
  record_dispatch(cpu::indexed_expand_name(args.y.dtype));
  return sums_in_double(args.y.dtype) ? cpu::indexed_linear<double>(args, routing, context)
                                      : cpu::indexed_linear<float>(args, routing, context);
}

Status factor_grad(const IndexedFactorGradArgs& args, const Routing& routing, const Context& context) {
  if (args.grads.count == 0 || args.grads.first.rows == 0 || args.grads.first.cols == 0) return {};
  record_dispatch(cpu::indexed_factor_grad_name(args.x.dtype));
  return sums_in_double(args.x.dtype) ? cpu::indexed_factor_grad<double>(args, routing, context)
                                      : cpu::indexed_factor_grad<float>(args, routing, context);
}

}  // namespace

const IndexedBackend& lowrank_indexed_cpu() {
  static constexpr IndexedBackend backend{
      "cpu",        cpu::indexed_route, project,          linear,
      factor_grad,  plan_project,       plan_linear,      plan_factor_grad,
      // One GEMM for all rows, whatever their adapters: only the low-rank terms need to be sorted.
      [](const IndexedLinearArgs&, const Context&) { return true; }, cpu::indexed_kernel_names};
  return backend;
}

}  // namespace lrk
