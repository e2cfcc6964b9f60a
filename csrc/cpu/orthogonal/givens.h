// The CPU kernels of the orthogonal family, behind backend.cpp. T is the type of the rotations.
#pragma once

#include "cpu/gemm/kernels.h"
#include "lrk/orthogonal.h"

namespace lrk::cpu {

template <class T>
Status givens(const GivensArgs& args, const Context& context);
template <class T>
size_t givens_workspace(const GivensArgs& args);

template <class T>
Status givens_backward(const GivensBackwardArgs& args, const Context& context);
template <class T>
size_t givens_backward_workspace(const GivensBackwardArgs& args);

}  // namespace lrk::cpu
