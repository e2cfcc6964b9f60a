// The loops of the sketch family for AVX2; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx2.h"

#include "cpu/sketch/vector_loops_impl.h"

namespace lrk::cpu {

const VectorLoops& vector_loops_avx2() { return kVectorLoops; }

template <>
const SignedLoops<float>& signed_loops_avx2<float>() {
  return kSignedLoops<FloatVector>;
}

template <>
const SignedLoops<double>& signed_loops_avx2<double>() {
  return kSignedLoops<DoubleVector>;
}

}  // namespace lrk::cpu

#endif
