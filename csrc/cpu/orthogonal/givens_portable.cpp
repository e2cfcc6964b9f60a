// The Givens passes for any CPU.
#include "cpu/gemm/vector_portable.h"

#include "cpu/orthogonal/givens_impl.h"

namespace lrk::cpu {

template <>
const GivensKernels<float>& givens_kernels_portable<float>() {
  static constexpr GivensKernels<float> table = make_givens_kernels<FloatVector>();
  return table;
}

template <>
const GivensKernels<double>& givens_kernels_portable<double>() {
  static constexpr GivensKernels<double> table = make_givens_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu
