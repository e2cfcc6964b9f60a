// Argument checks of householder_apply: each throws, naming the op and the argument. The Python twins make the same.
#pragma once

#include "torch/bridge.h"

namespace lrk::binding {

void check_householder(const char* op, const Tensor& x, const Tensor& vectors);
void check_householder_backward(const char* op, const Tensor& grad, const Tensor& rows, const Tensor& vectors);

}  // namespace lrk::binding
