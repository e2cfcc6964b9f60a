// torch.ops.lrk.polar and spectral_norm_bound: schemas, registration; on the CPU a matrix of the batch after the other, on
// CUDA all at once.
#include <cmath>
#include <limits>

#include "lrk/sketch.h"
#include "torch/inspection.h"
#include "torch/plain.h"
#include "torch/sketch_checks.h"
#include "torch/sketch_matrices.h"

namespace lrk::binding {
namespace {

using Coefficients = std::optional<std::vector<double>>;

/// Three numbers a step. Muon's ones are reference.polar.QUINTIC.
std::vector<double> coefficients_of(const std::string& method, int64_t steps, const Coefficients& given) {
  const std::vector<double> quintic{3.4445, -4.7750, 2.0315}, cubic{1.5, -0.5, 0.0};
  const std::vector<double>& step = method == "cubic" ? cubic : given ? *given : quintic;
  if (step.size() != 3) return step;
  std::vector<double> all;
  for (int64_t i = 0; i < steps; ++i) all.insert(all.end(), step.begin(), step.end());
  return all;
}

Tensor polar(const Tensor& a, std::string method, int64_t steps, Coefficients coefficients) {
  const char* op = "polar";
  check_polar(op, a, method, steps, coefficients);
  if (const BatchedSketchBackend* const device = batched_sketch_for(op, a)) {
    const Execution execution(op, a);
    const Tensor out = like(a), as = stack_of_matrices(a), outs = stack_of_matrices(out);
    BatchedPolarArgs args;
    args.a = matrices_of(as), args.out = mutable_matrices_of(outs), args.product = batched_product(a);
    args.exact = method == "exact";
    if (!args.exact) args.coefficients = coefficients_of(method, steps, coefficients);
    run(op, "polar", device->plan_polar, device->polar, args, execution.context());
    return out;
  }
  if (method != "exact") {
    const Tensor as = stack_of_matrices(a);
    if (sketch_cpu().polar_in_stack(as.size(0), as.size(1), as.size(2), kernel_dtype(a.scalar_type()))) {
      const Execution execution(op, a);
      const Tensor out = like(a), outs = stack_of_matrices(out);
      BatchedPolarArgs args;
      args.a = matrices_of(as), args.out = mutable_matrices_of(outs);
      args.coefficients = coefficients_of(method, steps, coefficients);
      run(op, "polar", sketch_cpu().plan_polar_stack, sketch_cpu().polar_stack, args, execution.context());
      return out;
    }
  }
  const Tensor wide = torch::stable::to(a, wide_dtype(a));
  const Tensor out = empty({a.sizes().begin(), a.sizes().end()}, wide_dtype(a), a);
  const Tensor as = stack_of_matrices(wide), outs = stack_of_matrices(out);
  for (int64_t index = 0; index < as.size(0) && (index == 0 || !planning()); ++index) {
    const Execution execution(op, as);
    const Tensor matrix = torch::stable::select(as, 0, index), result = torch::stable::select(outs, 0, index);
    PolarArgs args;
    args.a = matrix_view(matrix), args.out = mutable_view(result), args.product = matrix_product(execution);
    args.exact = method == "exact", args.eigen = symmetric_eigen();
    if (!args.exact) args.coefficients = coefficients_of(method, steps, coefficients);
    run(op, "polar", sketch_cpu().plan_polar, sketch_cpu().polar, args, execution.context());
  }
  return torch::stable::to(out, a.scalar_type());
}

Tensor spectral_norm_bound(const Tensor& weight, int64_t iters) {
  const char* op = "spectral_norm_bound";
  check_spectral_norm_bound(op, weight, iters);
  const ScalarType dtype = wide_dtype(weight);
  const Tensor out = empty(batch_sizes(weight, -1, -1), dtype, weight);
  if (const BatchedSketchBackend* const device = batched_sketch_for(op, weight)) {
    const Execution execution(op, weight);
    const Tensor stack = stack_of_matrices(weight);
    BatchedNormBoundArgs args;
    args.weight = matrices_of(stack), args.iters = iters, args.product = batched_product(weight);
    args.bounds = static_cast<float*>(out.mutable_data_ptr());
    run(op, "spectral_norm_bound", device->plan_spectral_norm_bound, device->spectral_norm_bound, args,
        execution.context());
    return out;
  }
  const Tensor weights = stack_of_matrices(torch::stable::to(weight, dtype));
  for (int64_t index = 0; index < weights.size(0) && (index == 0 || !planning()); ++index) {
    const Execution execution(op, weights);
    const Tensor matrix = torch::stable::select(weights, 0, index);
    double bound = 0;
    SpectralNormBoundArgs args;
    args.weight = matrix_view(matrix), args.iters = iters, args.bound = &bound;
    args.product = matrix_product(execution);
    run(op, "spectral_norm_bound", sketch_cpu().plan_spectral_norm_bound, sketch_cpu().spectral_norm_bound, args,
        execution.context());
    if (dtype == ScalarType::Double) {
      static_cast<double*>(out.mutable_data_ptr())[index] = bound;
    } else {
      const float rounded = float(bound);
      static_cast<float*>(out.mutable_data_ptr())[index] =
          double(rounded) < bound ? std::nextafter(rounded, std::numeric_limits<float>::infinity()) : rounded;
    }
  }
  return out;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("polar", &kernel_or_plain<TORCH_BOX(&polar), "polar">);
  m.impl("spectral_norm_bound", &kernel_or_plain<TORCH_BOX(&spectral_norm_bound), "spectral_norm_bound">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("polar(Tensor a, *, str method=\"newton_schulz\", int steps=5, float[]? coefficients=None) -> Tensor");
  m.def("spectral_norm_bound(Tensor weight, *, int iters=6) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::sketch_cuda() != nullptr) lrk::binding::register_kernels(m);
}
