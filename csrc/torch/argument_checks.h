// What the argument checks of every op are made of: each throws, naming the op and the argument.
#pragma once

#include <initializer_list>
#include <utility>

#include "torch/bridge.h"

namespace lrk::binding {

/// "(3, 4)", as Python writes a tuple.
std::string dims(std::initializer_list<int64_t> sizes);

/// None where a tensor belongs reaches an op as an undefined tensor.
void check_defined(const char* op, std::initializer_list<std::pair<const char*, const Tensor*>> arguments);
void check_activation(const char* op, const char* name, const Tensor& x);
void check_matrix(const char* op, const char* name, const Tensor& tensor, const char* expected);
void check_device(const char* op, const char* name, const Tensor& tensor, const char* x_name, const Tensor& x);
/// An operand lives on x's device and has x's dtype, or float32 next to a half x when `float_allowed`.
void check_kind(const char* op, const char* name, const Tensor& tensor, const char* x_name, const Tensor& x,
                bool float_allowed);

/// Sums are float32 unless x is float64; there a larger scale is infinite, and infinity times zero is no number.
void check_scale(const char* op, double scale, const char* x_name, const Tensor& x);

struct LowRankShape {
  int64_t in = 0, out = 0, rank = 0;
};

/// down [rank, in] and up [out, rank]; returns the three sizes.
LowRankShape check_factors(const char* op, const char* x_name, const Tensor& x, const Tensor& down, const Tensor& up);

/// weight [out, in] with x's dtype; `ups`, called `ups_name`, says what `out` is.
void check_weight(const char* op, const OptionalTensor& weight, int64_t out, const char* ups_name, const Tensor& ups,
                  const Tensor& x);
void check_base(const char* op, const OptionalTensor& base, int64_t out, const char* x_name, const Tensor& x);
void check_bias(const char* op, const OptionalTensor& bias, int64_t out, const char* x_name, const Tensor& x);

/// What a forward saved: a tensor with grad's leading dimensions and `last` features.
void check_beside_grad(const char* op, const char* name, const OptionalTensor& tensor, const Tensor& grad, int64_t last,
                       bool float_allowed);

bool leading_dims_equal(const Tensor& a, const Tensor& b);

}  // namespace lrk::binding
