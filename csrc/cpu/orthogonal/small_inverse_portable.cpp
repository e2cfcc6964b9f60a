// The small inverse for any CPU.
#include "cpu/gemm/vector_portable.h"

#include "cpu/orthogonal/small_inverse_impl.h"

namespace lrk::cpu {

template <>
SmallInverse<float> small_inverse_portable<float>() {
  return &small_inverse_of<FloatVector>;
}

template <>
SmallInverse<double> small_inverse_portable<double>() {
  return &small_inverse_of<DoubleVector>;
}

}  // namespace lrk::cpu
