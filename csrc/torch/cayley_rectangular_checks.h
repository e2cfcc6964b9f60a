// Argument checks of cayley_rectangular: each throws, naming the op and the argument. The Python twins make the same.
#pragma once

#include "torch/bridge.h"

namespace lrk::binding {

void check_cayley_rectangular(const char* op, const Tensor& weight);
void check_cayley_rectangular_backward(const char* op, const Tensor& grad, const Tensor& weight, const Tensor& inverse);

}  // namespace lrk::binding
