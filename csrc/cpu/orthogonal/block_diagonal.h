// Block-diagonal products on the CPU, behind backend.cpp. T is the type of the sums: float, or double for float64.
#pragma once

#include "cpu/gemm/kernels.h"
#include "lrk/context.h"
#include "lrk/orthogonal.h"

namespace lrk::cpu {

template <class T>
Status block_diagonal(const BlockDiagonalArgs& args, const Context& context);
template <class T>
size_t block_diagonal_workspace(const BlockDiagonalArgs& args);

template <class T>
Status block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context);
template <class T>
size_t block_diagonal_backward_workspace(const BlockDiagonalBackwardArgs& args);

}  // namespace lrk::cpu
