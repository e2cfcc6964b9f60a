// lowrank_cpu(): picks the sum type and the path, and records what runs.
#include <algorithm>
#include <initializer_list>

#include "cpu/lowrank/heuristics.h"
#include "cpu/lowrank/kernels.h"
#include "cpu/lowrank/packed_panels.h"

namespace lrk {
namespace {

using cpu::LinearPath;
using Product = cpu::FactorTraits::Product;

bool sums_in_double(DType dtype) { return dtype == DType::kFloat64; }

Plan single_kernel_plan(std::string kernel, std::string reason, size_t workspace) {
  Plan plan;
  plan.kernel = std::move(kernel);
  plan.reason = std::move(reason);
  plan.workspace_bytes = workspace;
  plan.hardware_verified = cpu::kTestedOnHardware;
  return plan;
}

/// BLAS does not read operands whose factor is 0, where we pass a NaN in them on.
bool is_plain(DType dtype, double scale, const Dropout& dropout, std::initializer_list<DType> others) {
  if (dropout.active() || scale == 0.0 || (dtype != DType::kFloat32 && dtype != DType::kFloat64)) return false;
  return std::all_of(others.begin(), others.end(), [&](DType other) { return other == dtype; });
}

cpu::FactorTraits factor_traits(const ProjectArgs& args) {
  const bool plain = !args.gate.present() && !args.projected.present() &&
                     is_plain(args.x.dtype, args.scale, args.dropout, {args.down.dtype, args.s.dtype});
  return {Product::kProject, args.x.rows * args.x.cols * args.down.rows, args.x.rows, args.x.dtype, plain};
}

cpu::FactorTraits factor_traits(const LinearArgs& args) {
  const bool plain = !args.weight.present() && !(args.base.present() && args.bias.present()) &&
                     is_plain(args.y.dtype, args.scale, args.dropout, {args.s.dtype, args.up.dtype}) &&
                     (!args.bias.present() || args.bias.dtype == args.y.dtype);
  return {Product::kExpand, args.y.rows * args.y.cols * args.s.cols, args.y.rows, args.y.dtype, plain};
}

cpu::FactorTraits factor_traits(const FactorGradArgs& args) {
  const bool plain = is_plain(args.x.dtype, args.scale, args.dropout, {args.s.dtype, args.grad.dtype});
  return {Product::kFactorGrad, args.x.rows * args.x.cols * args.s.cols, args.x.rows, args.x.dtype, plain};
}

/// Of a product with one small side: the library, or our one kernel for it.
Plan factor_plan(const cpu::FactorTraits& traits, const std::string& name, std::string reason, size_t workspace) {
  const std::string forced = forced_kernel();
  const bool preferred = cpu::prefers_library(traits, cpu_info(), selected_cpu_isa());
  const bool library = cpu::uses_library(traits, name, forced);
  const std::string named = "force(\"" + forced + "\")";
  const char* why = cpu::library_reason(traits, selected_cpu_isa());
  const std::string& chosen = library ? cpu::kLibraryGemm : name;
  const bool is_named = library != preferred || (!forced.empty() && chosen.find(forced) != std::string::npos);
  Plan plan = single_kernel_plan(chosen, is_named ? named : library ? why : std::move(reason), library ? 0 : workspace);
  plan.library_gemm = library;
  plan.rejected.push_back({library ? name : cpu::kLibraryGemm,
                           is_named ? named + " names another" : std::string(why)});
  return plan;
}

bool library_project(const ProjectArgs& args, const Context&) {
  const cpu::FactorTraits traits = factor_traits(args);
  return cpu::uses_library(traits, cpu::project_name(args.x.dtype, cpu::project_is_packed(args)), forced_kernel());
}

bool library_factor_grad(const FactorGradArgs& args, const Context&) {
  return cpu::uses_library(factor_traits(args), cpu::factor_grad_name(args.x.dtype), forced_kernel());
}

Plan plan_project(const ProjectArgs& args, const Context&) {
  const bool packed = cpu::project_is_packed(args);
  return factor_plan(factor_traits(args), cpu::project_name(args.x.dtype, packed),
                     packed ? "the rank is large enough to pay for packing x"
                            : "both operands run along the depth: x is read once and not packed",
                     sums_in_double(args.x.dtype) ? cpu::project_workspace<double>(args)
                                                  : cpu::project_workspace<float>(args));
}

Status project(const ProjectArgs& args, const Context& context) {
  if (args.s.rows == 0 || args.s.cols == 0) return {};
  record_dispatch(cpu::project_name(args.x.dtype, cpu::project_is_packed(args)));
  return sums_in_double(args.x.dtype) ? cpu::project<double>(args, context) : cpu::project<float>(args, context);
}

cpu::LinearTraits traits_of(const LinearArgs& args) {
  return {args.y.rows, args.x.cols, args.y.dtype, args.weight.col_stride == 1};
}

/// The heuristics' choice, unless force_kernel names another possible path.
LinearPath choose_path(const cpu::LinearTraits& traits, LinearPath preferred, bool library_allowed,
                       const std::string& forced) {
  const auto is_forced = [&](LinearPath path) {
    return cpu::is_possible(path, traits) && (library_allowed || path != LinearPath::kLibrary) &&
           cpu::linear_name(path, traits.dtype).find(forced) != std::string::npos;
  };
  if (forced.empty() || is_forced(preferred)) return preferred;
  for (LinearPath path : cpu::kLinearPaths)
    if (is_forced(path)) return path;
  return preferred;
}

/// The packed tiles have two drivers; a short depth is bound by y and suits the one that walks along its rows.
bool is_shallow(const LinearArgs& args) { return args.s.cols + args.x.cols <= cpu::kShallowDepth; }

template <class T>
size_t workspace_of(const LinearArgs& args, LinearPath path) {
  if (path == LinearPath::kFewRows) return cpu::linear_few_rows_workspace<T>(args);
  return is_shallow(args) ? cpu::linear_shallow_workspace<T>(args) : cpu::linear_packed_workspace<T>(args);
}

size_t linear_workspace(const LinearArgs& args, LinearPath path) {
  return sums_in_double(args.y.dtype) ? workspace_of<double>(args, path) : workspace_of<float>(args, path);
}

Plan plan_linear(const LinearArgs& args, const Context&) {
  if (!args.weight.present())
    return factor_plan(factor_traits(args), cpu::expand_name(args.y.dtype), "no weight: y is read and written once",
                       linear_workspace(args, LinearPath::kPacked));
  const cpu::LinearTraits traits = traits_of(args);
  const std::string forced = forced_kernel();
  const CpuIsa isa = selected_cpu_isa();
  const LinearPath preferred = cpu::preferred_path(traits, cpu_info(), isa);
  const LinearPath chosen = choose_path(traits, preferred, true, forced);
  const std::string& name = cpu::linear_name(chosen, traits.dtype);
  const std::string named = "force(\"" + forced + "\")";
  const bool is_named = !forced.empty() && name.find(forced) != std::string::npos;
  Plan plan = single_kernel_plan(name, is_named ? named : cpu::reason_for(chosen, preferred, traits, isa), 0);
  for (LinearPath path : cpu::kLinearPaths) {
    if (path == chosen) continue;
    plan.rejected.push_back({cpu::linear_name(path, traits.dtype),
                             is_named && cpu::is_possible(path, traits) ? named + " names another"
                                                                        : cpu::reason_for(path, preferred, traits, isa)});
  }
  plan.library_gemm = chosen == LinearPath::kLibrary;
  plan.workspace_bytes = plan.library_gemm ? 0 : linear_workspace(args, chosen);
  return plan;
}

bool library_linear(const LinearArgs& args, const Context&) {
  const std::string forced = forced_kernel();
  if (!args.weight.present()) return cpu::uses_library(factor_traits(args), cpu::expand_name(args.y.dtype), forced);
  const cpu::LinearTraits traits = traits_of(args);
  const LinearPath preferred = cpu::preferred_path(traits, cpu_info(), selected_cpu_isa());
  return choose_path(traits, preferred, true, forced) == LinearPath::kLibrary;
}

template <class T>
Status run_linear(const LinearArgs& args, const Context& context, LinearPath path) {
  if (path == LinearPath::kFewRows) return cpu::linear_few_rows<T>(args, context);
  return is_shallow(args) ? cpu::linear_shallow<T>(args, context) : cpu::linear_packed<T>(args, context);
}

Status linear(const LinearArgs& args, const Context& context) {
  if (args.y.rows == 0 || args.y.cols == 0) return {};
  LinearPath path = LinearPath::kPacked;
  if (args.weight.present()) {
    // The weight is here, so the caller wants a kernel of ours, whatever the library could do.
    const cpu::LinearTraits traits = traits_of(args);
    path = choose_path(traits, cpu::preferred_kernel(traits), false, forced_kernel());
    record_dispatch(cpu::linear_name(path, traits.dtype));
  } else {
    record_dispatch(cpu::expand_name(args.y.dtype));
  }
  return sums_in_double(args.y.dtype) ? run_linear<double>(args, context, path)
                                      : run_linear<float>(args, context, path);
}

Plan plan_factor_grad(const FactorGradArgs& args, const Context&) {
  const std::string& name = cpu::factor_grad_name(args.x.dtype);
  if (args.grad.rows == 0 || args.grad.cols == 0) return single_kernel_plan(name, "nothing to compute", 0);
  return factor_plan(factor_traits(args), name, "rows of s and x are the tiles' operands as they lie in memory",
                            sums_in_double(args.x.dtype) ? cpu::factor_grad_workspace<double>(args)
                                                         : cpu::factor_grad_workspace<float>(args));
}

Status factor_grad(const FactorGradArgs& args, const Context& context) {
  if (args.grad.rows == 0 || args.grad.cols == 0) return {};
  record_dispatch(cpu::factor_grad_name(args.x.dtype));
  return sums_in_double(args.x.dtype) ? cpu::factor_grad<double>(args, context)
                                      : cpu::factor_grad<float>(args, context);
}

}  // namespace

const LowRankBackend& lowrank_cpu() {
  static constexpr LowRankBackend backend{"cpu",           plan_project,   plan_linear, plan_factor_grad,
                                          project,         linear,         factor_grad,
                                          library_project, library_linear, library_factor_grad, cpu::kernel_names};
  return backend;
}

}  // namespace lrk
