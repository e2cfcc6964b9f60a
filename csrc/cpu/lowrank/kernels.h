// The CPU kernels of the low-rank family, behind backend.cpp. T is the type sums are kept in.
#pragma once

#include "cpu/gemm/kernels.h"
#include "device/philox.h"
#include "lrk/lowrank.h"

namespace lrk::cpu {

/// s = scale * gate . (drop(x) downT).
template <class T>
Status project(const ProjectArgs& args, const Context& context);
template <class T>
size_t project_workspace(const ProjectArgs& args);
/// A large rank pays for packing x, and many rows for packing down.
bool project_is_packed(const ProjectArgs& args);

/// linear, both operands packed, the weight piece by piece: for many rows.
template <class T>
Status linear_packed(const LinearArgs& args, const Context& context);
template <class T>
size_t linear_packed_workspace(const LinearArgs& args);

/// linear, both operands packed whole: for a small rank + in, above all without a weight.
template <class T>
Status linear_shallow(const LinearArgs& args, const Context& context);
template <class T>
size_t linear_shallow_workspace(const LinearArgs& args);

/// linear, weight rows read in place: for few rows. The weight has a unit column stride.
template <class T>
Status linear_few_rows(const LinearArgs& args, const Context& context);
template <class T>
size_t linear_few_rows_workspace(const LinearArgs& args);

/// grad = scale * sT drop(x).
template <class T>
Status factor_grad(const FactorGradArgs& args, const Context& context);
template <class T>
size_t factor_grad_workspace(const FactorGradArgs& args);

inline DropoutMask resolve(const Dropout& dropout) {
  return {uint64_t(*dropout.seed), dropout_threshold(dropout.probability), dropout_scale(dropout.probability)};
}

}  // namespace lrk::cpu
