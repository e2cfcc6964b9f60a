#include "torch/cayley_rectangular_checks.h"

#include <algorithm>

#include "torch/argument_checks.h"

namespace lrk::binding {

void check_cayley_rectangular(const char* op, const Tensor& weight) {
  check_defined(op, {{"weight", &weight}});
  if (!is_kernel_dtype(weight.scalar_type())) {
    fail(op, "weight has dtype " + dtype_string(weight.scalar_type()) +
                 ", expected torch.float32, torch.float64, torch.bfloat16 or torch.float16");
  }
  if (weight.dim() < 2) fail(op, "weight has shape " + shape_string(weight) + ", expected (..., rows, cols)");
}

void check_cayley_rectangular_backward(const char* op, const Tensor& grad, const Tensor& weight,
                                       const Tensor& inverse) {
  check_defined(op, {{"grad", &grad}, {"weight", &weight}, {"inverse", &inverse}});
  check_cayley_rectangular(op, weight);
  const int64_t dims = weight.dim(), size = std::min(weight.size(dims - 2), weight.size(dims - 1));
  if (!leading_dims_equal(grad, weight) || grad.size(dims - 1) != weight.size(dims - 1))
    fail(op, "grad has shape " + shape_string(grad) + ", expected " + shape_string(weight) + ", the shape of weight");
  check_kind(op, "grad", grad, "weight", weight, false);
  bool fits = inverse.dim() == dims && inverse.size(dims - 2) == size && inverse.size(dims - 1) == size;
  for (int64_t i = 0; fits && i + 2 < dims; ++i) fits = inverse.size(i) == weight.size(i);
  if (!fits) {
    fail(op, "inverse has shape " + shape_string(inverse) + ", expected weight's leading dimensions with " +
                 std::to_string(size) + ", " + std::to_string(size) + " last because weight is " +
                 shape_string(weight));
  }
  check_device(op, "inverse", inverse, "weight", weight);
  if (inverse.scalar_type() != wider(weight.scalar_type(), ScalarType::Float))
    fail(op, "inverse has dtype " + dtype_string(inverse.scalar_type()) + ", expected " +
                 dtype_string(wider(weight.scalar_type(), ScalarType::Float)) + " because weight is " +
                 dtype_string(weight.scalar_type()));
}

}  // namespace lrk::binding
