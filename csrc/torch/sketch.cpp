// torch.ops.lrk.sketch and unsketch: schemas, registration, and the product with the matrix that sketches: stored on the
// CPU, made in the kernel on CUDA.
#include <array>

#include "lrk/sketch.h"
#include "lrk/sketch_batched.h"
#include "torch/inspection.h"
#include "torch/lowrank.h"
#include "torch/plain.h"
#include "torch/sketch_checks.h"
#include "torch/sketch_matrices.h"

namespace lrk::binding {
namespace {

/// Omega [features, size] in `dtype`.
Tensor sketch_matrix(const char* op, const Execution& execution, int64_t features, int64_t size, ScalarType dtype,
                     const OptionalTensor& columns, const std::string& kind, int64_t seed, const Tensor& on) {
  const Tensor matrix = empty({features, size}, dtype, on);
  OptionalTensor frequencies;
  SketchMatrixArgs args;
  args.kind = sketch_kind(op, kind), args.seed = uint64_t(seed), args.matrix = mutable_view(matrix);
  if (columns) {
    frequencies = torch::stable::to(*columns, ScalarType::Double);
    args.columns = matrix_view(*frequencies);
  }
  run(op, "matrix", sketch_cpu().plan_sketch_matrix, sketch_cpu().sketch_matrix, args, execution.context());
  return matrix;
}

/// Rows of `a`, whose last dimension is sketched, by a device's own product into `out`.
void apply_signs(const char* op, const BatchedSketchBackend& backend, const Execution& execution, const Tensor& rows,
                 const std::string& kind, int64_t seed, bool adjoint, const Tensor& out) {
  const Tensor x = collapsible(rows);
  SketchProductArgs args;
  args.kind = sketch_kind(op, kind), args.seed = uint64_t(seed), args.adjoint = adjoint;
  args.x = matrix_view(x), args.y = mutable_view(out);
  run(op, "sketch_product", backend.plan_sketch_product, backend.sketch_product, args, execution.context());
}

/// The plain torch expression, for the kinds that have no CUDA kernel.
Tensor plain(const char* op, const Tensor& a, int64_t size, const OptionalTensor& columns, const std::string& kind,
             int64_t seed, int64_t dim) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(a), from(size), from(columns), from(kind), from(seed), from(dim)};
  call_plain(op, "lrkernels has no CUDA kernel for a sketch of kind '" + kind + "'", stack.data());
  return torch::stable::detail::to<Tensor>(stack[0]);
}

/// a Omega, or a OmegaT of the adjoint, along `dim`.
Tensor apply(const char* op, const Tensor& a, int64_t size, const OptionalTensor& columns, const std::string& kind,
             int64_t seed, int64_t dim, bool adjoint) {
  const BatchedSketchBackend* const device = batched_sketch_for(op, a);
  const SketchKind which = sketch_kind(op, kind);
  const bool signs = which == SketchKind::kRademacher || which == SketchKind::kSparseSign;
  if (device != nullptr && !signs) return plain(op, a, size, columns, kind, seed, dim);
  const int64_t last = a.dim() - 1, at = dim < 0 ? dim + a.dim() : dim;
  std::vector<int64_t> sizes(a.sizes().begin(), a.sizes().end());
  const int64_t inner = sizes[size_t(at)];
  sizes[size_t(at)] = size;
  if (inner == 0) return torch::stable::fill_(empty(sizes, a.scalar_type(), a), 0);
  const Execution execution(op, a);
  const Tensor rows = torch::stable::transpose(a, at, last);
  std::swap(sizes[size_t(at)], sizes[size_t(last)]);
  const Tensor out = empty(sizes, a.scalar_type(), a);
  if (device != nullptr) {
    apply_signs(op, *device, execution, rows, kind, seed, adjoint, out);
    return torch::stable::contiguous(torch::stable::transpose(out, at, last));
  }
  const ScalarType dtype = wide_dtype(a);
  const Tensor omega = adjoint ? sketch_matrix(op, execution, size, inner, dtype, columns, kind, seed, a)
                               : sketch_matrix(op, execution, inner, size, dtype, columns, kind, seed, a);
  LowRankRunner runner(op, a, omega);
  if (out.numel() > 0)
    runner.project(rows, adjoint ? omega : aten_transpose(omega), std::nullopt, std::nullopt, 1.0, 0.0, out);
  return torch::stable::contiguous(torch::stable::transpose(out, at, last));
}

Tensor sketch(const Tensor& a, int64_t size, const OptionalTensor& columns, std::string kind, int64_t seed,
              int64_t dim) {
  check_sketch("sketch", "a", a, "size", size, columns, kind, dim, false);
  return apply("sketch", a, size, columns, kind, seed, dim, false);
}

Tensor unsketch(const Tensor& b, int64_t full_size, const OptionalTensor& columns, std::string kind, int64_t seed,
                int64_t dim) {
  check_sketch("unsketch", "b", b, "full_size", full_size, columns, kind, dim, true);
  return apply("unsketch", b, full_size, columns, kind, seed, dim, true);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("sketch", &kernel_or_plain<TORCH_BOX(&sketch), "sketch">);
  m.impl("unsketch", &kernel_or_plain<TORCH_BOX(&unsketch), "unsketch">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def(
      "sketch(Tensor a, SymInt size, Tensor? columns=None, *, str kind=\"rademacher\", SymInt seed=0, int dim=-1) "
      "-> Tensor");
  m.def(
      "unsketch(Tensor b, SymInt full_size, Tensor? columns=None, *, str kind=\"rademacher\", SymInt seed=0, "
      "int dim=-1) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::sketch_cuda() != nullptr) lrk::binding::register_kernels(m);
}
