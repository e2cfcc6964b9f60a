// The Givens passes for AVX2; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx2.h"

#include "cpu/orthogonal/givens_impl.h"

namespace lrk::cpu {

template <>
const GivensKernels<float>& givens_kernels_avx2<float>() {
  static constexpr GivensKernels<float> table = make_givens_kernels<FloatVector>();
  return table;
}

template <>
const GivensKernels<double>& givens_kernels_avx2<double>() {
  static constexpr GivensKernels<double> table = make_givens_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu

#endif
