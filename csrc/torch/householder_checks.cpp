#include "torch/householder_checks.h"

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

void check_vectors(const char* op, const char* x_name, const Tensor& x, const Tensor& vectors) {
  check_matrix(op, "vectors", vectors, "(reflections, features)");
  const int64_t features = x.size(x.dim() - 1);
  if (vectors.size(1) != features) {
    fail(op, "vectors has shape " + shape_string(vectors) + ", expected (reflections, " + std::to_string(features) +
                 ") because " + x_name + " is " + shape_string(x));
  }
  check_kind(op, "vectors", vectors, x_name, x, true);
}

}  // namespace

void check_householder(const char* op, const Tensor& x, const Tensor& vectors) {
  check_defined(op, {{"x", &x}, {"vectors", &vectors}});
  check_activation(op, "x", x);
  check_vectors(op, "x", x, vectors);
}

void check_householder_backward(const char* op, const Tensor& grad, const Tensor& rows, const Tensor& vectors) {
  check_defined(op, {{"grad", &grad}, {"rows", &rows}, {"vectors", &vectors}});
  check_activation(op, "grad", grad);
  if (!leading_dims_equal(rows, grad) || rows.size(rows.dim() - 1) != grad.size(grad.dim() - 1))
    fail(op, "rows has shape " + shape_string(rows) + ", expected " + shape_string(grad) + ", the shape of grad");
  check_kind(op, "rows", rows, "grad", grad, false);
  check_vectors(op, "grad", grad, vectors);
}

}  // namespace lrk::binding
