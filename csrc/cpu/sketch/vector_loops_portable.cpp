// The loops of the sketch family for any CPU.
#include "cpu/gemm/vector_portable.h"

#include "cpu/sketch/vector_loops_impl.h"

namespace lrk::cpu {

const VectorLoops& vector_loops_portable() { return kVectorLoops; }

template <>
const SignedLoops<float>& signed_loops_portable<float>() {
  return kSignedLoops<FloatVector>;
}

template <>
const SignedLoops<double>& signed_loops_portable<double>() {
  return kSignedLoops<DoubleVector>;
}

}  // namespace lrk::cpu
