// torch.ops.lrk.block_diagonal_apply: schemas, registration, and what the kernels of lrk/orthogonal.h need of tensors.
#include <tuple>

#include "torch/block_diagonal_checks.h"
#include "torch/inspection.h"
#include "torch/orthogonal.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

template <class Args>
bool uses_library(bool (*preferred)(const Args&), const Args& args) {
  return !planning() && preferred != nullptr && preferred(args);
}

/// [rows, count block] as a stack of [count, rows, block], or as [rows count, block] where all have one matrix.
Tensor stack_of(const Tensor& rows, const Tensor& blocks) {
  const int64_t block = blocks.size(2);
  if (blocks.size(0) == 1) return torch::stable::reshape(rows, {rows.numel() / block, block});
  return torch::stable::transpose(torch::stable::reshape(rows, {rows.size(0), rows.size(1) / block, block}), 0, 1);
}

/// y_n = x_n R_n by the library.
void library_apply(const Tensor& x, const Tensor& blocks, bool transpose, const Tensor& y) {
  record_dispatch("library_gemm");
  const Tensor matrices = transpose ? torch::stable::transpose(blocks, 1, 2) : blocks;
  if (blocks.size(0) > 1) {
    // bmm into strided memory is a loop of products; one batch and a copy were measured faster.
    Tensor stack = stack_of(y, blocks);
    const Tensor products = empty({stack.size(0), stack.size(1), stack.size(2)}, y.scalar_type(), y);
    aten_bmm_cpu(products, stack_of(x, blocks), matrices);
    torch::stable::copy_(stack, products);
    return;
  }
  aten_addmm_cpu(stack_of(y, blocks), std::nullopt, stack_of(x, blocks), torch::stable::select(matrices, 0, 0), 1.0);
}

/// dR_n = left_nt right_n by the library.
void library_gradient(const Tensor& left, const Tensor& right, const Tensor& dblocks) {
  record_dispatch("library_gemm");
  const Tensor a = stack_of(left, dblocks), b = stack_of(right, dblocks);
  if (dblocks.size(0) > 1) return aten_bmm_cpu(dblocks, torch::stable::transpose(a, 1, 2), b);
  aten_addmm_cpu(torch::stable::select(dblocks, 0, 0), std::nullopt, aten_transpose(a), b, 1.0);
}

Tensor block_diagonal_apply(const Tensor& x, const Tensor& blocks, bool transpose) {
  const char* op = "block_diagonal_apply";
  check_block_diagonal(op, x, blocks);
  const Execution execution(op, x);
  const OrthogonalBackend& backend = orthogonal_for(op, x);
  const bool any_layout = &backend == &orthogonal_cpu();
  const Tensor rows = row_operand(x, any_layout), matrices = row_operand(blocks, any_layout), y = like(x);
  BlockDiagonalArgs args;
  args.x = matrix_view(rows), args.blocks = matrix_view(matrices), args.y = mutable_view(y);
  args.block = blocks.size(2), args.transpose = transpose;
  if (x.numel() > 0 && uses_library(backend.library_block_diagonal, args)) {
    library_apply(matrix_of(rows), blocks, transpose, matrix_of(y));
    return y;
  }
  run(op, "block_diagonal", backend.plan_block_diagonal, backend.block_diagonal, args, execution.context());
  return y;
}

/// (dx, dblocks); dx has no elements when nobody wants it.
std::tuple<Tensor, Tensor> block_diagonal_backward(const Tensor& grad, const Tensor& x, const Tensor& blocks,
                                                   bool transpose, bool needs_dx) {
  const char* op = "block_diagonal_backward";
  check_block_diagonal_backward(op, grad, x, blocks);
  const Execution execution(op, grad);
  const OrthogonalBackend& backend = orthogonal_for(op, grad);
  const bool any_layout = &backend == &orthogonal_cpu();
  const Tensor dx = needs_dx ? like(grad) : empty({0}, grad.scalar_type(), grad), dblocks = like(blocks);
  if (grad.numel() == 0) return {dx, torch::stable::fill_(dblocks, 0)};
  const Tensor grad_rows = row_operand(grad, any_layout), x_rows = row_operand(x, any_layout);
  const Tensor matrices = row_operand(blocks, any_layout);
  BlockDiagonalBackwardArgs args;
  args.grad = matrix_view(grad_rows), args.x = matrix_view(x_rows), args.blocks = matrix_view(matrices);
  args.block = blocks.size(2), args.transpose = transpose;
  if (needs_dx) args.dx = mutable_view(dx);
  args.dblocks = mutable_view(dblocks);
  if (uses_library(backend.library_block_diagonal_backward, args)) {
    const Tensor g = matrix_of(grad_rows), inputs = matrix_of(x_rows);
    if (needs_dx) library_apply(g, blocks, !transpose, matrix_of(dx));
    library_gradient(transpose ? g : inputs, transpose ? inputs : g, dblocks);
    return {dx, dblocks};
  }
  run(op, "block_diagonal_backward", backend.plan_block_diagonal_backward, backend.block_diagonal_backward, args,
      execution.context());
  return {dx, dblocks};
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("block_diagonal_apply", &kernel_or_plain<TORCH_BOX(&block_diagonal_apply), "block_diagonal_apply">);
  m.impl("_block_diagonal_backward", &kernel_or_plain<TORCH_BOX(&block_diagonal_backward), "_block_diagonal_backward">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("block_diagonal_apply(Tensor x, Tensor blocks, *, bool transpose=False) -> Tensor");
  m.def(
      "_block_diagonal_backward(Tensor grad, Tensor x, Tensor blocks, *, bool transpose, bool needs_dx) -> "
      "(Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::orthogonal_cuda() != nullptr) lrk::binding::register_kernels(m);
}
