// Masks of 2:4 for this instruction set; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/sparse24/mask_impl.h"

namespace lrk::cpu {

template <>
const Sparse24MaskKernels<float>& sparse24_mask_kernels_avx512<float>() {
  static constexpr Sparse24MaskKernels<float> table = make_mask_kernels<float, 64>();
  return table;
}

template <>
const Sparse24MaskKernels<double>& sparse24_mask_kernels_avx512<double>() {
  static constexpr Sparse24MaskKernels<double> table = make_mask_kernels<double, 64>();
  return table;
}

}  // namespace lrk::cpu

#endif
