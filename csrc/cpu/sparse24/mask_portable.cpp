// Masks of 2:4 without any instruction set beyond the baseline.
#include "cpu/sparse24/mask_impl.h"

namespace lrk::cpu {

template <>
const Sparse24MaskKernels<float>& sparse24_mask_kernels_portable<float>() {
  static constexpr Sparse24MaskKernels<float> table = make_mask_kernels<float, 16>();
  return table;
}

template <>
const Sparse24MaskKernels<double>& sparse24_mask_kernels_portable<double>() {
  static constexpr Sparse24MaskKernels<double> table = make_mask_kernels<double, 16>();
  return table;
}

}  // namespace lrk::cpu
