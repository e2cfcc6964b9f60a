// 512-bit vectors: what kernels_impl.h asks of an instruction set, in AVX-512 F, BW, VL, DQ.
#pragma once

// g++ 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "cpu/gemm/element.h"

namespace lrk::cpu {
namespace {

inline float widen(BFloat16 value) { return bits_to_float(uint32_t(value.bits) << 16); }
inline float widen(Float16 value) { return _cvtsh_ss(value.bits); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

struct FloatVector {
  using Scalar = float;
  using Register = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 14, kDotStreamed = 4, kDotResident = 6;

  static __mmask16 first(int count) { return __mmask16((1u << count) - 1); }
  static Register zero() { return _mm512_setzero_ps(); }
  static Register broadcast(float value) { return _mm512_set1_ps(value); }
  static Register add(Register a, Register b) { return _mm512_add_ps(a, b); }
  static Register subtract(Register a, Register b) { return _mm512_sub_ps(a, b); }
  static Register multiply(Register a, Register b) { return _mm512_mul_ps(a, b); }
  static Register fma(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  /// c - a b.
  static Register negated_fma(Register a, Register b, Register c) { return _mm512_fnmadd_ps(a, b, c); }
  /// Lane i becomes lane i ^ distance.
  template <int distance>
  static Register exchange(Register v) {
    if constexpr (distance == 1) return _mm512_permute_ps(v, 0xB1);
    if constexpr (distance == 2) return _mm512_permute_ps(v, 0x4E);
    if constexpr (distance == 4) return _mm512_shuffle_f32x4(v, v, 0xB1);
    if constexpr (distance == 8) return _mm512_shuffle_f32x4(v, v, 0x4E);
  }

  static Register from_bits(__m256i bits, BFloat16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static Register from_bits(__m256i bits, Float16) { return _mm512_cvtph_ps(bits); }

  static Register load(const float* from) { return _mm512_loadu_ps(from); }
  static Register load(const float* from, int count) { return _mm512_maskz_loadu_ps(first(count), from); }
  template <class Half>
  static Register load(const Half* from) {
    return from_bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), Half{});
  }
  template <class Half>
  static Register load(const Half* from, int count) {
    return from_bits(_mm256_maskz_loadu_epi16(first(count), from), Half{});
  }

  static __m256i to_bits(Register value, BFloat16) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_srli_epi32(rounded, 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0)));
  }
  static __m256i to_bits(Register value, Float16) {
    return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }

  static void store(float* to, Register value) { _mm512_storeu_ps(to, value); }
  static void store(float* to, Register value, int count) { _mm512_mask_storeu_ps(to, first(count), value); }
  template <class Half>
  static void store(Half* to, Register value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bits(value, Half{}));
  }
  template <class Half>
  static void store(Half* to, Register value, int count) {
    _mm256_mask_storeu_epi16(to, first(count), to_bits(value, Half{}));
  }

  /// The sums of four vectors' lanes.
  static void sum4(const Register (&v)[4], float (&sums)[4]) {
    const Register ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const Register cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512d ab64 = _mm512_castps_pd(ab), cd64 = _mm512_castps_pd(cd);
    const Register abcd = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab64, cd64)),
                                        _mm512_castpd_ps(_mm512_unpackhi_pd(ab64, cd64)));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
};

struct DoubleVector {
  using Scalar = double;
  using Register = __m512d;
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 14, kDotStreamed = 4, kDotResident = 6;

  static __mmask8 first(int count) { return __mmask8((1u << count) - 1); }
  static Register zero() { return _mm512_setzero_pd(); }
  static Register broadcast(double value) { return _mm512_set1_pd(value); }
  static Register add(Register a, Register b) { return _mm512_add_pd(a, b); }
  static Register subtract(Register a, Register b) { return _mm512_sub_pd(a, b); }
  static Register multiply(Register a, Register b) { return _mm512_mul_pd(a, b); }
  static Register fma(Register a, Register b, Register c) { return _mm512_fmadd_pd(a, b, c); }
  static Register negated_fma(Register a, Register b, Register c) { return _mm512_fnmadd_pd(a, b, c); }
  template <int distance>
  static Register exchange(Register v) {
    if constexpr (distance == 1) return _mm512_permute_pd(v, 0x55);
    if constexpr (distance == 2) return _mm512_shuffle_f64x2(v, v, 0xB1);
    if constexpr (distance == 4) return _mm512_shuffle_f64x2(v, v, 0x4E);
  }
  static Register load(const double* from) { return _mm512_loadu_pd(from); }
  static Register load(const double* from, int count) { return _mm512_maskz_loadu_pd(first(count), from); }
  static Register load(const float* from) { return _mm512_cvtps_pd(_mm256_loadu_ps(from)); }
  static Register load(const float* from, int count) {
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first(count), from));
  }
  static void store(double* to, Register value) { _mm512_storeu_pd(to, value); }
  static void store(double* to, Register value, int count) { _mm512_mask_storeu_pd(to, first(count), value); }
  static void store(float* to, Register value) { _mm256_storeu_ps(to, _mm512_cvtpd_ps(value)); }
  static void store(float* to, Register value, int count) {
    _mm256_mask_storeu_ps(to, first(count), _mm512_cvtpd_ps(value));
  }
  static void sum4(const Register (&v)[4], double (&sums)[4]) {
    for (int i = 0; i < 4; ++i) sums[i] = _mm512_reduce_add_pd(v[i]);
  }
};

/// Unsigned 32-bit lanes for Philox.
struct WordVector {
  using Register = __m512i;
  static constexpr int kLanes = 16;
  static Register broadcast(uint32_t value) { return _mm512_set1_epi32(int(value)); }
  static Register load(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static void store(uint32_t* to, Register value) { _mm512_storeu_si512(to, value); }
  static Register add(Register a, Register b) { return _mm512_add_epi32(a, b); }
  static Register exclusive_or(Register a, Register b, Register c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  /// 1 where a < b, else 0.
  static Register less(Register a, Register b) {
    return _mm512_maskz_mov_epi32(_mm512_cmplt_epu32_mask(a, b), _mm512_set1_epi32(1));
  }
  static void multiply(Register a, Register factor, Register& high, Register& low) {
    const Register even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
    high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd);
    low = _mm512_mask_mov_epi32(even, 0xAAAA, _mm512_slli_epi64(odd, 32));
  }
  /// A 4x4 transposition inside every 128 bits.
  static void transpose4(Register& a, Register& b, Register& c, Register& d) {
    const Register ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    const Register cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    a = _mm512_unpacklo_epi64(ab_low, cd_low), b = _mm512_unpackhi_epi64(ab_low, cd_low);
    c = _mm512_unpacklo_epi64(ab_high, cd_high), d = _mm512_unpackhi_epi64(ab_high, cd_high);
  }
};

inline Float16 narrow(float value, Float16) { return {uint16_t(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))}; }

}  // namespace
}  // namespace lrk::cpu
