#include "cpu/orthogonal/small_inverse.h"

#include "runtime/cpu_features.h"

namespace lrk::cpu {
namespace {

template <class T>
SmallInverse<T> selected_small_inverse() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return small_inverse_avx512<T>();
    case CpuIsa::kAvx2: return small_inverse_avx2<T>();
    case CpuIsa::kPortable: break;
  }
#endif
  return small_inverse_portable<T>();
}

}  // namespace

template <class T>
void small_inverse(T* matrix, int64_t size, int64_t stride) {
  selected_small_inverse<T>()(matrix, size, stride);
}

template void small_inverse<float>(float*, int64_t, int64_t);
template void small_inverse<double>(double*, int64_t, int64_t);

}  // namespace lrk::cpu
