#include "cpu/sketch/vector_loops.h"

#include "runtime/cpu_features.h"

namespace lrk::cpu {

const VectorLoops& vector_loops() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return vector_loops_avx512();
    case CpuIsa::kAvx2: return vector_loops_avx2();
    case CpuIsa::kPortable: break;
  }
#endif
  return vector_loops_portable();
}

template <class T>
const SignedLoops<T>& signed_loops() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return signed_loops_avx512<T>();
    case CpuIsa::kAvx2: return signed_loops_avx2<T>();
    case CpuIsa::kPortable: break;
  }
#endif
  return signed_loops_portable<T>();
}

template const SignedLoops<float>& signed_loops<float>();
template const SignedLoops<double>& signed_loops<double>();

}  // namespace lrk::cpu
