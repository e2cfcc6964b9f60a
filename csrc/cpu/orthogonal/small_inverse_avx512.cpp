// The small inverse for AVX-512; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx512.h"

#include "cpu/orthogonal/small_inverse_impl.h"

namespace lrk::cpu {

template <>
SmallInverse<float> small_inverse_avx512<float>() {
  return &small_inverse_of<FloatVector>;
}

template <>
SmallInverse<double> small_inverse_avx512<double>() {
  return &small_inverse_of<DoubleVector>;
}

}  // namespace lrk::cpu

#endif
