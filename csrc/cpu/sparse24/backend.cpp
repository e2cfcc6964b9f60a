// sparse24_cpu(): picks the type of the arithmetic and the way of a product, and records what runs.
#include <string>

#include "cpu/sparse24/sparse24.h"
#include "runtime/cpu_features.h"

namespace lrk {
namespace {

#if defined(__x86_64__)
constexpr bool kTestedOnHardware = true;
#else
constexpr bool kTestedOnHardware = false;
#endif

std::string name(const char* operation) { return std::string(operation) + "_" + name_of(selected_cpu_isa()); }

Plan plan(const char* operation, std::string reason, size_t workspace = 0) {
  Plan plan;
  plan.kernel = name(operation), plan.reason = std::move(reason);
  plan.workspace_bytes = workspace, plan.hardware_verified = kTestedOnHardware;
  return plan;
}

const char* mask_name(Sparse24Mask kind) {
  switch (kind) {
    case Sparse24Mask::kRows: return "sparse24_mask_rows";
    case Sparse24Mask::kTransposable: return "sparse24_mask_transposable";
    case Sparse24Mask::kGreedy: return "sparse24_mask_greedy";
    case Sparse24Mask::kDoublePruned: return "sparse24_mask_double_pruned";
  }
  return "sparse24_mask";
}

Plan plan_mask(const Sparse24MaskArgs& args, const Context&) {
  const bool transposable = args.kind == Sparse24Mask::kTransposable;
  return plan(mask_name(args.kind), transposable ? "the best of 90 patterns by halves, a tile a lane" : "one pass");
}

Status mask(const Sparse24MaskArgs& args, const Context& context) {
  if (args.weight.rows == 0 || args.weight.cols == 0) return {};
  record_dispatch(name(mask_name(args.kind)));
  return args.weight.dtype == DType::kFloat64 ? cpu::sparse24_mask<double>(args, context)
                                              : cpu::sparse24_mask<float>(args, context);
}

Plan plan_compress(const Sparse24CompressArgs&, const Context&) { return plan("sparse24_compress", "one pass"); }

Status compress(const Sparse24CompressArgs& args, const Context& context) {
  record_dispatch(name("sparse24_compress"));
  return cpu::sparse24_compress(args, context);
}

Plan plan_decompress(const Sparse24DecompressArgs&, const Context&) { return plan("sparse24_decompress", "one pass"); }

Status decompress(const Sparse24DecompressArgs& args, const Context& context) {
  record_dispatch(name("sparse24_decompress"));
  return cpu::sparse24_decompress(args, context);
}

Plan plan_pack(const Sparse24PackArgs&, const Context&) { return plan("sparse24_pack", "panels of 16 rows"); }

Status pack(const Sparse24PackArgs& args, const Context& context) {
  record_dispatch(name("sparse24_pack"));
  return cpu::sparse24_pack(args, context);
}

Plan plan_linear(const Sparse24LinearArgs& args, const Context&) {
  if (cpu::sparse24_uses_panels(args))
    return plan("sparse24_linear_panels", "few rows: the packing is read once", cpu::sparse24_panels_workspace(args));
  return plan("sparse24_linear_expanded",
              args.packed == nullptr ? "no packing, or a transposed product: strips of W are expanded"
                                     : "many rows: strips of W are expanded for a dense product",
              cpu::sparse24_expanded_workspace(args));
}

Status linear(const Sparse24LinearArgs& args, const Context& context) {
  if (args.y.rows == 0 || args.y.cols == 0) return {};
  if (cpu::sparse24_uses_panels(args)) {
    record_dispatch(name("sparse24_linear_panels"));
    return cpu::sparse24_linear_panels(args, context);
  }
  record_dispatch(name("sparse24_linear_expanded"));
  return cpu::sparse24_linear_expanded(args, context);
}

Plan plan_values_grad(const Sparse24ValuesGradArgs& args, const Context&) {
  return plan("sparse24_values_grad", "strips of the dense gradient, of which two of four are kept",
              cpu::sparse24_values_grad_workspace(args));
}

Status values_grad(const Sparse24ValuesGradArgs& args, const Context& context) {
  if (args.dvalues.rows == 0 || args.dvalues.cols == 0) return {};
  record_dispatch(name("sparse24_values_grad"));
  return cpu::sparse24_values_grad(args, context);
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const char* operation :
       {"sparse24_mask_rows", "sparse24_mask_transposable", "sparse24_mask_greedy", "sparse24_mask_double_pruned",
        "sparse24_compress", "sparse24_decompress", "sparse24_pack", "sparse24_linear_panels",
        "sparse24_linear_expanded", "sparse24_values_grad"})
    names.push_back(name(operation));
  return names;
}

}  // namespace

const Sparse24Backend& sparse24_cpu() {
  static constexpr Sparse24Backend backend{"cpu",
                                           plan_mask,
                                           mask,
                                           plan_compress,
                                           compress,
                                           plan_decompress,
                                           decompress,
                                           cpu::sparse24_packed_bytes,
                                           plan_pack,
                                           pack,
                                           plan_linear,
                                           linear,
                                           plan_values_grad,
                                           values_grad,
                                           kernel_names};
  return backend;
}

}  // namespace lrk
