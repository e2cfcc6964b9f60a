// torch.ops.lrk.givens_apply: schemas, registration, and what the kernels of lrk/orthogonal.h need of tensors.
#include <tuple>

#include "torch/givens_checks.h"
#include "torch/orthogonal.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

/// The angles in the type of the rotations: float32, or float64 for float64.
Tensor rotation_angles(const Tensor& angles, const Tensor& x) {
  return torch::stable::contiguous(torch::stable::to(angles, wider(x.scalar_type(), ScalarType::Float)));
}

GivensRounds rounds_of(const Tensor& angles, const std::vector<int64_t>& strides, bool inverse) {
  GivensRounds rounds;
  rounds.angles = matrix_view(angles), rounds.strides = strides.data(), rounds.inverse = inverse;
  return rounds;
}

Tensor givens_apply(const Tensor& x, const Tensor& angles, std::vector<int64_t> strides, bool inverse) {
  const char* op = "givens_apply";
  check_givens(op, x, angles, strides);
  const Execution execution(op, x);
  const OrthogonalBackend& backend = orthogonal_for(op, x);
  const Tensor rows = row_operand(x, &backend == &orthogonal_cpu()), wide = rotation_angles(angles, x), y = like(x);
  GivensArgs args;
  args.x = matrix_view(rows), args.y = mutable_view(y);
  args.rounds = rounds_of(wide, strides, inverse);
  run(op, "givens", backend.plan_givens, backend.givens, args, execution.context());
  return y;
}

std::tuple<Tensor, Tensor> givens_backward(const Tensor& grad, const Tensor& y, const Tensor& angles,
                                           std::vector<int64_t> strides, bool inverse) {
  const char* op = "givens_backward";
  check_givens_backward(op, grad, y, angles, strides);
  const Execution execution(op, grad);
  const OrthogonalBackend& backend = orthogonal_for(op, grad);
  const bool any_layout = &backend == &orthogonal_cpu();
  const Tensor grad_rows = row_operand(grad, any_layout), y_rows = row_operand(y, any_layout);
  const Tensor wide = rotation_angles(angles, grad), dx = like(grad), dangles = like(wide);
  if (grad.numel() == 0) return {dx, torch::stable::fill_(like(angles), 0)};
  GivensBackwardArgs args;
  args.y = matrix_view(y_rows), args.grad = matrix_view(grad_rows);
  args.dx = mutable_view(dx), args.dangles = mutable_view(dangles);
  args.rounds = rounds_of(wide, strides, inverse);
  run(op, "givens_backward", backend.plan_givens_backward, backend.givens_backward, args, execution.context());
  return {dx, torch::stable::to(dangles, angles.scalar_type())};
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("givens_apply", &kernel_or_plain<TORCH_BOX(&givens_apply), "givens_apply">);
  m.impl("_givens_backward", &kernel_or_plain<TORCH_BOX(&givens_backward), "_givens_backward">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("givens_apply(Tensor x, Tensor angles, int[] strides, *, bool inverse=False) -> Tensor");
  m.def(
      "_givens_backward(Tensor grad, Tensor y, Tensor angles, *, int[] strides, bool inverse) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::orthogonal_cuda() != nullptr) lrk::binding::register_kernels(m);
}
