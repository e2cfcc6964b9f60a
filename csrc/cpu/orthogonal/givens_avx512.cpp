// The Givens passes for AVX-512; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx512.h"

#include "cpu/orthogonal/givens_impl.h"

namespace lrk::cpu {

template <>
const GivensKernels<float>& givens_kernels_avx512<float>() {
  static constexpr GivensKernels<float> table = make_givens_kernels<FloatVector>();
  return table;
}

template <>
const GivensKernels<double>& givens_kernels_avx512<double>() {
  static constexpr GivensKernels<double> table = make_givens_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu

#endif
