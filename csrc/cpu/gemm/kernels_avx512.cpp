// The kernel table for AVX512; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx512.h"

#include "cpu/gemm/kernels_impl.h"

namespace lrk::cpu {

template <>
const Kernels<float>& kernels_avx512<float>() {
  static constexpr Kernels<float> table = make_kernels<FloatVector>();
  return table;
}

template <>
const Kernels<double>& kernels_avx512<double>() {
  static constexpr Kernels<double> table = make_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu

#endif
