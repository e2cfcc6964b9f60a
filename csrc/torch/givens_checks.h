// Argument checks of givens_apply: each throws, naming the op and the argument. The Python twins make the same.
#pragma once

#include <vector>

#include "torch/bridge.h"

namespace lrk::binding {

void check_givens(const char* op, const Tensor& x, const Tensor& angles, const std::vector<int64_t>& strides);
void check_givens_backward(const char* op, const Tensor& grad, const Tensor& y, const Tensor& angles,
                           const std::vector<int64_t>& strides);

}  // namespace lrk::binding
