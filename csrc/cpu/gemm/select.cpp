#include "cpu/gemm/kernels.h"
#include "runtime/cpu_features.h"

namespace lrk::cpu {

template <class T>
const Kernels<T>& selected_kernels() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return kernels_avx512<T>();
    case CpuIsa::kAvx2: return kernels_avx2<T>();
    case CpuIsa::kPortable: break;
  }
#endif
  return kernels_portable<T>();
}

template const Kernels<float>& selected_kernels<float>();
template const Kernels<double>& selected_kernels<double>();

}  // namespace lrk::cpu
