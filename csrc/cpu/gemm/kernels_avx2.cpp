// The kernel table for AVX2; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx2.h"

#include "cpu/gemm/kernels_impl.h"

namespace lrk::cpu {

template <>
const Kernels<float>& kernels_avx2<float>() {
  static constexpr Kernels<float> table = make_kernels<FloatVector>();
  return table;
}

template <>
const Kernels<double>& kernels_avx2<double>() {
  static constexpr Kernels<double> table = make_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu

#endif
