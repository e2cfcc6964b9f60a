// Cayley maps on the CPU, behind backend.cpp. T is the type of skew's arithmetic: float, or double for float64.
#pragma once

#include "cpu/gemm/kernels.h"
#include "lrk/context.h"
#include "lrk/orthogonal.h"

namespace lrk::cpu {

template <class T>
Status cayley(const CayleyArgs& args, const Context& context);
template <class T>
size_t cayley_workspace(const CayleyArgs& args);

template <class T>
Status cayley_backward(const CayleyBackwardArgs& args, const Context& context);
template <class T>
size_t cayley_backward_workspace(const CayleyBackwardArgs& args);

}  // namespace lrk::cpu
