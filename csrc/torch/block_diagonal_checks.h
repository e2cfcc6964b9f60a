// Argument checks of block_diagonal_apply: each throws, naming the op and the argument. The Python twins make the same.
#pragma once

#include "torch/bridge.h"

namespace lrk::binding {

void check_block_diagonal(const char* op, const Tensor& x, const Tensor& blocks);
void check_block_diagonal_backward(const char* op, const Tensor& grad, const Tensor& x, const Tensor& blocks);

}  // namespace lrk::binding
