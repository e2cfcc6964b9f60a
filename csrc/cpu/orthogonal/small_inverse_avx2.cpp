// The small inverse for AVX2; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx2.h"

#include "cpu/orthogonal/small_inverse_impl.h"

namespace lrk::cpu {

template <>
SmallInverse<float> small_inverse_avx2<float>() {
  return &small_inverse_of<FloatVector>;
}

template <>
SmallInverse<double> small_inverse_avx2<double>() {
  return &small_inverse_of<DoubleVector>;
}

}  // namespace lrk::cpu

#endif
