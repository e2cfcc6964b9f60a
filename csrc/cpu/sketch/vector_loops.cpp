#include "cpu/sketch/vector_loops.h"

#include <algorithm>
#include <cmath>

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

double length(const double* x, int64_t count) {
  const double plain = vector_loops().dot(x, x, count);
  if (plain > 1e-280 && plain < 1e280) return std::sqrt(plain);
  double largest = 0, sum = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  if (!(largest > 0) || !std::isfinite(largest)) return plain == 0 ? 0.0 : std::sqrt(plain);
  for (int64_t i = 0; i < count; ++i) sum += x[i] / largest * (x[i] / largest);
  return largest * std::sqrt(sum);
}

}  // namespace lrk::cpu
