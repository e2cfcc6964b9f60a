// torch.ops.lrk.cayley: schemas, registration, and what the kernels of lrk/orthogonal.h need of tensors.
#include "torch/cayley_checks.h"
#include "torch/orthogonal.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

/// What the kernels call the method: 0 terms are the exact map.
int64_t terms_of(const std::string& method, int64_t terms) { return method == "exact" ? 0 : terms; }

Tensor cayley(const Tensor& skew, int64_t block, std::string method, int64_t terms) {
  const char* op = "cayley";
  check_cayley(op, skew, block, method, terms);
  const Execution execution(op, skew);
  const OrthogonalBackend& backend = orthogonal_for(op, skew);
  const Tensor rotation = empty({skew.size(0), block, block}, skew.scalar_type(), skew);
  CayleyArgs args;
  args.skew = matrix_view(skew), args.rotation = mutable_view(rotation);
  args.count = skew.size(0), args.block = block, args.terms = terms_of(method, terms);
  run(op, "cayley", backend.plan_cayley, backend.cayley, args, execution.context());
  return rotation;
}

Tensor cayley_backward(const Tensor& grad, const Tensor& saved, int64_t block, std::string method, int64_t terms) {
  const char* op = "cayley_backward";
  check_cayley_backward(op, grad, saved, block, method, terms);
  const Execution execution(op, grad);
  const OrthogonalBackend& backend = orthogonal_for(op, grad);
  const Tensor whole = torch::stable::contiguous(grad);
  const Tensor dskew = empty({grad.size(0), block * (block - 1) / 2}, grad.scalar_type(), grad);
  CayleyBackwardArgs args;
  args.grad = matrix_view(whole), args.dskew = mutable_view(dskew);
  args.count = grad.size(0), args.block = block, args.terms = terms_of(method, terms);
  const Tensor whole_saved = args.terms == 0 ? torch::stable::contiguous(saved) : saved;
  (args.terms == 0 ? args.rotation : args.skew) = matrix_view(whole_saved);
  run(op, "cayley_backward", backend.plan_cayley_backward, backend.cayley_backward, args, execution.context());
  return dskew;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("cayley", &kernel_or_plain<TORCH_BOX(&cayley), "cayley">);
  m.impl("_cayley_backward", &kernel_or_plain<TORCH_BOX(&cayley_backward), "_cayley_backward">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("cayley(Tensor skew, int block, *, str method=\"exact\", int terms=5) -> Tensor");
  m.def("_cayley_backward(Tensor grad, Tensor saved, *, int block, str method, int terms) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::orthogonal_cuda() != nullptr) lrk::binding::register_kernels(m);
}
