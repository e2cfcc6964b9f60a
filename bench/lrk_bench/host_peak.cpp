// Peak arithmetic of the CPU: chains of fused multiply-adds that stay in registers, enough of them (12 or more) to hide
// the instruction's latency on two ports. 16-bit dtypes have arithmetic of their own only with AVX512_BF16 and
// AVX512_FP16; elsewhere a kernel widens to fp32, and that is its peak.
#include "host_peak.h"

#include <algorithm>
#include <chrono>

#include "runtime/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
// Older compilers have no AVX512_FP16 to measure it with.
#if (defined(__clang__) && __clang_major__ >= 15) || (!defined(__clang__) && __GNUC__ >= 12)
#define LRK_HAS_FP16_INTRINSICS 1
#endif
#endif

namespace lrk::bench {
namespace {

constexpr int kChains = 16, kIterations = 20000;

/// Runs kIterations of kChains operations; returns a number that depends on them all, so that none is left out.
using Loop = double (*)();
struct Instructions {
  const char* name;
  Loop loop;
  double flops_per_operation;
};

#if defined(__x86_64__)

#define LRK_PEAK_LOOP(function, features, Vector, splat, multiply_add, first_lane) \
  __attribute__((target(features))) double function() {                          \
    Vector sum[kChains];                                                           \
    for (int c = 0; c < kChains; ++c) sum[c] = splat(0.5f + c);                    \
    const Vector a = splat(0.999f);                                                \
    for (int i = 0; i < kIterations; ++i) {                                        \
      _Pragma("GCC unroll 16") for (int c = 0; c < kChains; ++c) sum[c] = multiply_add(sum[c], a); \
    }                                                                              \
    double total = 0;                                                              \
    for (int c = 0; c < kChains; ++c) total += first_lane(sum[c]);                 \
    return total;                                                                  \
  }

#define LRK_FMA_512(s, a) _mm512_fmadd_ps(s, a, a)
#define LRK_FMA_512D(s, a) _mm512_fmadd_pd(s, a, a)
#define LRK_FMA_256(s, a) _mm256_fmadd_ps(s, a, a)
#define LRK_FMA_256D(s, a) _mm256_fmadd_pd(s, a, a)
LRK_PEAK_LOOP(avx512_float, "avx512f", __m512, _mm512_set1_ps, LRK_FMA_512, _mm512_cvtss_f32)
LRK_PEAK_LOOP(avx512_double, "avx512f", __m512d, _mm512_set1_pd, LRK_FMA_512D, _mm512_cvtsd_f64)
LRK_PEAK_LOOP(avx2_float, "avx2,fma", __m256, _mm256_set1_ps, LRK_FMA_256, _mm256_cvtss_f32)
LRK_PEAK_LOOP(avx2_double, "avx2,fma", __m256d, _mm256_set1_pd, LRK_FMA_256D, _mm256_cvtsd_f64)

__attribute__((target("avx512f,avx512bw,avx512bf16"))) double avx512_bf16() {
  __m512 sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm512_set1_ps(float(c));
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int i = 0; i < kIterations; ++i) {
    _Pragma("GCC unroll 16") for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbf16_ps(sum[c], a, a);
  }
  double total = 0;
  for (int c = 0; c < kChains; ++c) total += _mm512_cvtss_f32(sum[c]);
  return total;
}

#if LRK_HAS_FP16_INTRINSICS
__attribute__((target("avx512f,avx512bw,avx512fp16"))) double avx512_fp16() {
  __m512h sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm512_set1_ph(_Float16(c));
  const __m512h a = _mm512_set1_ph(_Float16(0.5));
  for (int i = 0; i < kIterations; ++i) {
    _Pragma("GCC unroll 16") for (int c = 0; c < kChains; ++c) sum[c] = _mm512_fmadd_ph(sum[c], a, a);
  }
  double total = 0;
  for (int c = 0; c < kChains; ++c) total += double(_mm512_cvtsh_h(sum[c]));
  return total;
}
#endif

#endif

template <class T>
double portable() {
  T sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = T(c);
  volatile T factor = T(0.999);
  const T a = factor;
  for (int i = 0; i < kIterations; ++i)
    for (int c = 0; c < kChains; ++c) sum[c] = sum[c] * a + a;
  double total = 0;
  for (int c = 0; c < kChains; ++c) total += double(sum[c]);
  return total;
}

Instructions instructions_for(DType dtype) {
  const bool wide = dtype == DType::kFloat64;
#if defined(__x86_64__)
  const CpuInfo& cpu = cpu_info();
  if (dtype == DType::kBFloat16 && cpu.avx512_bf16) return {"avx512_bf16 dot product", avx512_bf16, 64};
#if LRK_HAS_FP16_INTRINSICS
  if (dtype == DType::kFloat16 && cpu.avx512_fp16) return {"avx512_fp16 FMA", avx512_fp16, 64};
#endif
  if (cpu.avx512) return wide ? Instructions{"avx512 fp64 FMA", avx512_double, 16}
                              : Instructions{"avx512 fp32 FMA", avx512_float, 32};
  if (cpu.avx2) return wide ? Instructions{"avx2 fp64 FMA", avx2_double, 8} : Instructions{"avx2 fp32 FMA", avx2_float, 16};
#endif
  return wide ? Instructions{"compiled fp64 multiply-add", portable<double>, 2}
              : Instructions{"compiled fp32 multiply-add", portable<float>, 2};
}

}  // namespace

Peak measure_host_peak(DType dtype, ThreadPool& pool) {
  const Instructions instructions = instructions_for(dtype);
  const int threads = pool.threads();
  std::vector<double> sink(size_t(threads) * 8);  // a cache line a thread
  double best = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(150);
  // The best of many short runs: other work on the machine can only make one slower.
  while (std::chrono::steady_clock::now() < end) {
    const auto begin = std::chrono::steady_clock::now();
    pool.parallel_for(threads, [&](int64_t first, int64_t last) {
      for (int64_t thread = first; thread < last; ++thread) sink[size_t(thread) * 8] += instructions.loop();
    });
    const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::max(best, double(threads) * kIterations * kChains * instructions.flops_per_operation / elapsed.count());
  }
  volatile double keep = sink.front();
  (void)keep;
  return {best, std::string(instructions.name) + ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads")};
}

}  // namespace lrk::bench
