#include "torch/givens_checks.h"

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

void check_rounds(const char* op, const char* x_name, const Tensor& x, const Tensor& angles,
                  const std::vector<int64_t>& strides) {
  check_matrix(op, "angles", angles, "(rounds, features // 2)");
  const int64_t features = x.size(x.dim() - 1), rounds = int64_t(strides.size());
  if (angles.size(0) != rounds || angles.size(1) != features / 2) {
    fail(op, "angles has shape " + shape_string(angles) + ", expected " + dims({rounds, features / 2}) +
                 " because strides has " + std::to_string(rounds) + " entries and " + x_name + " is " + shape_string(x));
  }
  check_kind(op, "angles", angles, x_name, x, true);
  for (const int64_t stride : strides) {
    if (stride < 1) fail(op, "strides holds " + std::to_string(stride) + ", expected strides of at least 1");
  }
}

}  // namespace

void check_givens(const char* op, const Tensor& x, const Tensor& angles, const std::vector<int64_t>& strides) {
  check_defined(op, {{"x", &x}, {"angles", &angles}});
  check_activation(op, "x", x);
  check_rounds(op, "x", x, angles, strides);
}

void check_givens_backward(const char* op, const Tensor& grad, const Tensor& y, const Tensor& angles,
                           const std::vector<int64_t>& strides) {
  check_defined(op, {{"grad", &grad}, {"y", &y}, {"angles", &angles}});
  check_activation(op, "grad", grad);
  if (!leading_dims_equal(y, grad) || y.size(y.dim() - 1) != grad.size(grad.dim() - 1))
    fail(op, "y has shape " + shape_string(y) + ", expected " + shape_string(grad) + ", the shape of grad");
  check_kind(op, "y", y, "grad", grad, false);
  check_rounds(op, "grad", grad, angles, strides);
}

}  // namespace lrk::binding
