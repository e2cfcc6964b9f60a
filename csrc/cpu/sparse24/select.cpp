#include "cpu/sparse24/kernels.h"
#include "runtime/cpu_features.h"

namespace lrk::cpu {

const Sparse24Kernels& selected_sparse24_kernels() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return sparse24_kernels_avx512();
    case CpuIsa::kAvx2: return sparse24_kernels_avx2();
    case CpuIsa::kPortable: break;
  }
#endif
  return sparse24_kernels_portable();
}

template <class T>
const Sparse24MaskKernels<T>& selected_sparse24_mask_kernels() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return sparse24_mask_kernels_avx512<T>();
    case CpuIsa::kAvx2: return sparse24_mask_kernels_avx2<T>();
    case CpuIsa::kPortable: break;
  }
#endif
  return sparse24_mask_kernels_portable<T>();
}

template const Sparse24MaskKernels<float>& selected_sparse24_mask_kernels<float>();
template const Sparse24MaskKernels<double>& selected_sparse24_mask_kernels<double>();

}  // namespace lrk::cpu
