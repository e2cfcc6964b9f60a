// torch.ops.lrk.lowrank_linear_indexed: schemas, registration, forward and the low-rank branch's gradients. Gradients of
// base, weight and bias are plain aten in the Python formula (ops/lowrank_indexed.py).
#include <tuple>

#include "torch/inspection.h"
#include "torch/lowrank_indexed_checks.h"
#include "torch/lowrank_indexed_runner.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

/// What stands for a gradient nobody asked for.
Tensor nothing(const Tensor& tensor) { return empty({0}, tensor.scalar_type(), tensor); }

struct Forward {
  OptionalTensor y, projected;
};

Forward indexed_forward(const Tensor& x, const Tensor& downs, const Tensor& ups, const Tensor& index,
                        const OptionalTensor& ranks, const OptionalTensor& scales, const OptionalTensor& weight,
                        const OptionalTensor& bias, const OptionalTensor& base, bool save_projected) {
  const char* op = "lowrank_linear_indexed";
  const IndexedShape shape = check_linear_indexed(op, x, downs, ups, index, ranks, scales, weight, bias, base);
  // A device's memory cannot be looked at without waiting for it, and the emulator stands for a device.
  if (!x.is_cuda() && !emulating()) check_index_values(op, index, ranks, shape.adapters, shape.rank);
  IndexedRunner runner(op, x, downs, ups, index, ranks);
  const ScalarType saved_dtype = wider(x.scalar_type(), downs.scalar_type());
  Forward result;
  if (save_projected) result.projected = empty(sizes_with_last(x, shape.rank), saved_dtype, x);
  const bool saved_is_s = save_projected && !scales && runner.branch_dtype() == saved_dtype;
  const Tensor s = saved_is_s ? matrix_of(*result.projected) : runner.branch();
  runner.project(x, downs, scales, s, saved_is_s ? std::nullopt : result.projected);
  result.y = runner.linear(x, weight, base, s, ups, bias, sizes_with_last(x, shape.out));
  return result;
}

Tensor lowrank_linear_indexed(const Tensor& x, const Tensor& downs, const Tensor& ups, const Tensor& index,
                              const OptionalTensor& ranks, const OptionalTensor& scales, const OptionalTensor& weight,
                              const OptionalTensor& bias, const OptionalTensor& base) {
  return *indexed_forward(x, downs, ups, index, ranks, scales, weight, bias, base, false).y;
}

std::tuple<Tensor, Tensor> lowrank_linear_indexed_saving(const Tensor& x, const Tensor& downs, const Tensor& ups,
                                                         const Tensor& index, const OptionalTensor& ranks,
                                                         const OptionalTensor& scales, const OptionalTensor& weight,
                                                         const OptionalTensor& bias, const OptionalTensor& base) {
  Forward result = indexed_forward(x, downs, ups, index, ranks, scales, weight, bias, base, true);
  return {*result.y, *result.projected};
}

/// Which gradients are wanted, bit i for the i-th of (x, downs, ups, scales).
enum Needs : int64_t { kNeedsX = 1, kNeedsDowns = 2, kNeedsUps = 4, kNeedsScales = 8 };

void require_saved(bool needed, const OptionalTensor& tensor, const char* name) {
  if (needed && !tensor)
    fail("lowrank_linear_indexed_backward", std::string(name) + " is missing, but a gradient that needs it is asked for");
}

/// With i = index[t], p_t = x_t downs[i]T, s_t = scales[i] p_t and y_t = ... + s_t ups[i]T:
///   dups[i] = scales[i] sum_t dy_tT p_t, ds_t = dy_t ups[i], dscales[i] = sum_t ds_t . p_t, dp_t = scales[i] ds_t,
///   ddowns[i] = sum_t dp_tT x_t, dx_t = dy_t weight + dp_t downs[i].
std::tuple<Tensor, Tensor, Tensor, Tensor> lowrank_linear_indexed_backward(
    const Tensor& grad, const Tensor& downs, const Tensor& ups, const Tensor& index, const OptionalTensor& ranks,
    const OptionalTensor& scales, const OptionalTensor& x, const OptionalTensor& projected,
    const OptionalTensor& weight, int64_t needs) {
  const char* op = "lowrank_linear_indexed_backward";
  check_linear_indexed_backward(op, grad, downs, ups, index, ranks, scales, x, projected, weight);
  if (!grad.is_cuda() && !emulating()) check_index_values(op, index, ranks, downs.size(0), downs.size(1));
  require_saved(needs & kNeedsDowns, x, "x");
  require_saved(needs & (kNeedsUps | kNeedsScales), projected, "projected");
  require_saved(needs & kNeedsScales, scales, "scales");
  IndexedRunner runner(op, grad, downs, ups, index, ranks);
  Tensor dx = nothing(grad), ddowns = nothing(downs), dups = nothing(ups), dscales = nothing(scales ? *scales : ups);
  if (needs & kNeedsUps) {
    dups = like(ups);
    runner.factor_grad(matrix_of(*projected), grad, scales, torch::stable::transpose(dups, 1, 2));
  }
  if ((needs & ~kNeedsUps) == 0) return {dx, ddowns, dups, dscales};

  const Tensor dp = runner.branch();
  const OptionalTensor ds = needs & kNeedsScales ? OptionalTensor(runner.branch()) : std::nullopt;
  runner.project(grad, torch::stable::transpose(ups, 1, 2), scales, dp, ds);
  if (needs & kNeedsScales) {
    const ScalarType wide = wider(grad.scalar_type(), ScalarType::Float);
    const Tensor products = aten_multiply(torch::stable::to(*ds, wide), torch::stable::to(matrix_of(*projected), wide));
    const Tensor sums = empty({scales->size(0)}, wide, grad);
    runner.sum_by_adapter(aten_sum(products, {1}), sums);
    dscales = torch::stable::to(sums, scales->scalar_type());
  }
  if (needs & kNeedsDowns) {
    ddowns = like(downs);
    runner.factor_grad(dp, *x, std::nullopt, ddowns);
  }
  if (needs & kNeedsX) {
    const OptionalTensor weight_columns = weight ? OptionalTensor(aten_transpose(*weight)) : std::nullopt;
    dx = runner.linear(grad, weight_columns, std::nullopt, dp, torch::stable::transpose(downs, 1, 2), std::nullopt,
                       sizes_with_last(grad, downs.size(2)));
  }
  return {dx, ddowns, dups, dscales};
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("lowrank_linear_indexed",
         &kernel_or_plain<TORCH_BOX(&lowrank_linear_indexed), "lowrank_linear_indexed">);
  m.impl("_lowrank_linear_indexed_saving",
         &kernel_or_plain<TORCH_BOX(&lowrank_linear_indexed_saving), "_lowrank_linear_indexed_saving">);
  m.impl("_lowrank_linear_indexed_backward",
         &kernel_or_plain<TORCH_BOX(&lowrank_linear_indexed_backward), "_lowrank_linear_indexed_backward">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def(
      "lowrank_linear_indexed(Tensor x, Tensor downs, Tensor ups, Tensor index, Tensor? ranks=None, "
      "Tensor? scales=None, Tensor? weight=None, Tensor? bias=None, Tensor? base=None) -> Tensor");
  m.def(
      "_lowrank_linear_indexed_saving(Tensor x, Tensor downs, Tensor ups, Tensor index, Tensor? ranks=None, "
      "Tensor? scales=None, Tensor? weight=None, Tensor? bias=None, Tensor? base=None) -> (Tensor, Tensor)");
  m.def(
      "_lowrank_linear_indexed_backward(Tensor grad, Tensor downs, Tensor ups, Tensor index, Tensor? ranks=None, "
      "Tensor? scales=None, Tensor? x=None, Tensor? projected=None, Tensor? weight=None, *, int needs) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::lowrank_indexed_cuda() != nullptr) lrk::binding::register_kernels(m);
}
