#include "torch/block_diagonal_checks.h"

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

void check_blocks(const char* op, const char* x_name, const Tensor& x, const Tensor& blocks) {
  if (blocks.dim() != 3 || blocks.size(1) != blocks.size(2) || blocks.size(1) < 1)
    fail(op, "blocks has shape " + shape_string(blocks) + ", expected (features / block or 1, block, block)");
  const int64_t features = x.size(x.dim() - 1), block = blocks.size(1);
  if (features % block != 0)
    fail(op, "blocks has shape " + shape_string(blocks) + ", expected a block that divides " +
                 std::to_string(features) + " because " + x_name + " is " + shape_string(x));
  if (blocks.size(0) != 1 && blocks.size(0) != features / block)
    fail(op, "blocks has shape " + shape_string(blocks) + ", expected " + dims({features / block, block, block}) +
                 " or " + dims({1, block, block}) + " because " + x_name + " is " + shape_string(x));
  check_kind(op, "blocks", blocks, x_name, x, true);
}

}  // namespace

void check_block_diagonal(const char* op, const Tensor& x, const Tensor& blocks) {
  check_defined(op, {{"x", &x}, {"blocks", &blocks}});
  check_activation(op, "x", x);
  check_blocks(op, "x", x, blocks);
}

void check_block_diagonal_backward(const char* op, const Tensor& grad, const Tensor& x, const Tensor& blocks) {
  check_defined(op, {{"grad", &grad}, {"x", &x}, {"blocks", &blocks}});
  check_activation(op, "grad", grad);
  if (!leading_dims_equal(x, grad) || x.size(x.dim() - 1) != grad.size(grad.dim() - 1))
    fail(op, "x has shape " + shape_string(x) + ", expected " + shape_string(grad) + ", the shape of grad");
  check_kind(op, "x", x, "grad", grad, false);
  check_blocks(op, "grad", grad, blocks);
}

}  // namespace lrk::binding
