// orthogonal_cpu(): picks the type of the rotations, and records what runs.
#include "cpu/orthogonal/givens.h"
#include "runtime/cpu_features.h"

namespace lrk {
namespace {

#if defined(__x86_64__)
constexpr bool kTestedOnHardware = true;
#else
constexpr bool kTestedOnHardware = false;
#endif

bool is_double(DType dtype) { return dtype == DType::kFloat64; }

std::string name(const char* operation) { return std::string(operation) + "_" + name_of(selected_cpu_isa()); }

Plan plan(const char* operation, std::string reason, size_t workspace) {
  Plan plan;
  plan.kernel = name(operation), plan.reason = std::move(reason);
  plan.workspace_bytes = workspace, plan.hardware_verified = kTestedOnHardware;
  return plan;
}

Plan plan_givens(const GivensArgs& args, const Context&) {
  return plan("givens", "all rounds in one pass over x",
              is_double(args.x.dtype) ? cpu::givens_workspace<double>(args) : cpu::givens_workspace<float>(args));
}

Status givens(const GivensArgs& args, const Context& context) {
  if (args.x.rows == 0 || args.x.cols == 0) return {};
  record_dispatch(name("givens"));
  return is_double(args.x.dtype) ? cpu::givens<double>(args, context) : cpu::givens<float>(args, context);
}

Plan plan_givens_backward(const GivensBackwardArgs& args, const Context&) {
  return plan("givens_backward", "y and its gradient are rotated back together",
              is_double(args.y.dtype) ? cpu::givens_backward_workspace<double>(args)
                                      : cpu::givens_backward_workspace<float>(args));
}

Status givens_backward(const GivensBackwardArgs& args, const Context& context) {
  record_dispatch(name("givens_backward"));
  return is_double(args.y.dtype) ? cpu::givens_backward<double>(args, context)
                                 : cpu::givens_backward<float>(args, context);
}

std::vector<std::string> kernel_names() { return {name("givens"), name("givens_backward")}; }

}  // namespace

const OrthogonalBackend& orthogonal_cpu() {
  static constexpr OrthogonalBackend backend{"cpu",  plan_givens, givens, plan_givens_backward, givens_backward,
                                             kernel_names};
  return backend;
}

}  // namespace lrk
