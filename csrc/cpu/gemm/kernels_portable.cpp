// The kernel table for any CPU: 128-bit vectors of the baseline.
#include "cpu/gemm/vector_portable.h"

#include "cpu/gemm/kernels_impl.h"

namespace lrk::cpu {

template <>
const Kernels<float>& kernels_portable<float>() {
  static constexpr Kernels<float> table = make_kernels<FloatVector>();
  return table;
}

template <>
const Kernels<double>& kernels_portable<double>() {
  static constexpr Kernels<double> table = make_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu
