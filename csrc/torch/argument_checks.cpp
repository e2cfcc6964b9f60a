#include "torch/argument_checks.h"

#include <cfloat>
#include <cmath>
#include <cstdio>

namespace lrk::binding {

std::string dims(std::initializer_list<int64_t> sizes) {
  std::string text = "(";
  bool first = true;
  for (const int64_t size : sizes) {
    text += (first ? "" : ", ") + std::to_string(size);
    first = false;
  }
  return text + (sizes.size() == 1 ? ",)" : ")");
}

void check_defined(const char* op, std::initializer_list<std::pair<const char*, const Tensor*>> arguments) {
  for (const auto& [name, tensor] : arguments) {
    if (!tensor->defined()) fail(op, std::string(name) + " is a NoneType, expected a torch.Tensor");
  }
}

void check_activation(const char* op, const char* name, const Tensor& x) {
  if (!is_kernel_dtype(x.scalar_type())) {
    fail(op, std::string(name) + " has dtype " + dtype_string(x.scalar_type()) +
                 ", expected torch.float32, torch.float64, torch.bfloat16 or torch.float16");
  }
  if (x.dim() < 1) fail(op, std::string(name) + " has no dimensions, expected (..., features)");
}

void check_matrix(const char* op, const char* name, const Tensor& tensor, const char* expected) {
  if (tensor.dim() != 2) {
    fail(op, std::string(name) + " has shape " + shape_string(tensor) + ", expected " + expected);
  }
}

void check_device(const char* op, const char* name, const Tensor& tensor, const char* x_name, const Tensor& x) {
  if (tensor.device() == x.device()) return;
  fail(op, std::string(name) + " is on " + device_string(tensor) + ", but " + x_name + " is on " + device_string(x));
}

void check_kind(const char* op, const char* name, const Tensor& tensor, const char* x_name, const Tensor& x,
                bool float_allowed) {
  check_device(op, name, tensor, x_name, x);
  const ScalarType dtype = tensor.scalar_type(), x_dtype = x.scalar_type();
  const bool half = x_dtype == ScalarType::BFloat16 || x_dtype == ScalarType::Half;
  if (dtype == x_dtype || (float_allowed && half && dtype == ScalarType::Float)) return;
  fail(op, std::string(name) + " has dtype " + dtype_string(dtype) + ", expected " + dtype_string(x_dtype) +
               (float_allowed && half ? " or torch.float32" : "") + " because " + x_name + " is " +
               dtype_string(x_dtype));
}

bool leading_dims_equal(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t i = 0; i + 1 < a.dim(); ++i) {
    if (a.size(i) != b.size(i)) return false;
  }
  return true;
}

void check_scale(const char* op, double scale, const char* x_name, const Tensor& x) {
  if (!std::isfinite(scale)) fail(op, "scale is " + std::to_string(scale) + ", expected a finite number");
  if (std::abs(scale) <= double(FLT_MAX) || x.scalar_type() == ScalarType::Double) return;
  char value[32];
  std::snprintf(value, sizeof value, "%g", scale);
  fail(op, std::string("scale is ") + value + ", expected a float32 number because " + x_name + " is " +
               dtype_string(x.scalar_type()));
}

LowRankShape check_factors(const char* op, const char* x_name, const Tensor& x, const Tensor& down, const Tensor& up) {
  check_matrix(op, "down", down, "(rank, in)");
  check_matrix(op, "up", up, "(out, rank)");
  const int64_t in = x.size(x.dim() - 1), rank = down.size(0), out = up.size(0);
  if (down.size(1) != in) {
    fail(op, "down has shape " + shape_string(down) + ", expected (rank, " + std::to_string(in) + ") because " +
                 x_name + " is " + shape_string(x));
  }
  if (up.size(1) != rank) {
    fail(op, "up has shape " + shape_string(up) + ", expected (out, " + std::to_string(rank) +
                 ") because down is " + shape_string(down));
  }
  check_kind(op, "down", down, x_name, x, true);
  check_kind(op, "up", up, x_name, x, true);
  return {in, out, rank};
}

void check_weight(const char* op, const OptionalTensor& weight, int64_t out, const char* ups_name, const Tensor& ups,
                  const Tensor& x) {
  if (!weight) return;
  const int64_t in = x.size(x.dim() - 1);
  check_matrix(op, "weight", *weight, "(out, in)");
  if (weight->size(0) != out || weight->size(1) != in) {
    fail(op, "weight has shape " + shape_string(*weight) + ", expected " + dims({out, in}) + " because " + ups_name +
                 " is " + shape_string(ups) + " and x is " + shape_string(x));
  }
  check_kind(op, "weight", *weight, "x", x, false);
}

void check_base(const char* op, const OptionalTensor& base, int64_t out, const char* x_name, const Tensor& x) {
  if (!base) return;
  if (!leading_dims_equal(*base, x) || base->size(base->dim() - 1) != out) {
    fail(op, "base has shape " + shape_string(*base) + ", expected " + x_name + "'s leading dimensions with out " +
                 std::to_string(out) + " last because " + x_name + " is " + shape_string(x));
  }
  check_kind(op, "base", *base, x_name, x, false);
}

void check_bias(const char* op, const OptionalTensor& bias, int64_t out, const char* x_name, const Tensor& x) {
  if (!bias) return;
  if (bias->dim() != 1 || bias->size(0) != out) {
    fail(op, "bias has shape " + shape_string(*bias) + ", expected " + dims({out}));
  }
  check_kind(op, "bias", *bias, x_name, x, true);
}

void check_beside_grad(const char* op, const char* name, const OptionalTensor& tensor, const Tensor& grad, int64_t last,
                       bool float_allowed) {
  if (!tensor) return;
  if (!leading_dims_equal(*tensor, grad) || tensor->size(tensor->dim() - 1) != last) {
    fail(op, std::string(name) + " has shape " + shape_string(*tensor) + ", expected grad's leading dimensions with " +
                 std::to_string(last) + " last because grad is " + shape_string(grad));
  }
  check_kind(op, name, *tensor, "grad", grad, float_allowed);
}

}  // namespace lrk::binding
