// Argument checks of cayley: each throws, naming the op and the argument. The Python twins make the same.
#pragma once

#include <string>

#include "torch/bridge.h"

namespace lrk::binding {

void check_cayley(const char* op, const Tensor& skew, int64_t block, const std::string& method, int64_t terms);
/// `saved` is the rotation where the method is exact, else skew.
void check_cayley_backward(const char* op, const Tensor& grad, const Tensor& saved, int64_t block,
                           const std::string& method, int64_t terms);

}  // namespace lrk::binding
