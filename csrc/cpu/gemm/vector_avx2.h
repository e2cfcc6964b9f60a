// 256-bit vectors: what kernels_impl.h asks of an instruction set, in AVX2 with FMA and F16C.
#pragma once

#include <immintrin.h>

#include "cpu/gemm/element.h"

namespace lrk::cpu {
namespace {

inline float widen(BFloat16 value) { return bits_to_float(uint32_t(value.bits) << 16); }
inline float widen(Float16 value) { return _cvtsh_ss(value.bits); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline Float16 narrow(float value, Float16) { return {uint16_t(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))}; }

/// All ones in the first `count` 32-bit lanes.
inline __m256i first_words(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

struct FloatVector {
  using Scalar = float;
  using Register = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 6, kDotStreamed = 4, kDotResident = 2;

  static Register zero() { return _mm256_setzero_ps(); }
  static Register broadcast(float value) { return _mm256_set1_ps(value); }
  static Register add(Register a, Register b) { return _mm256_add_ps(a, b); }
  static Register subtract(Register a, Register b) { return _mm256_sub_ps(a, b); }
  static Register multiply(Register a, Register b) { return _mm256_mul_ps(a, b); }
  static Register fma(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  /// c - a b.
  static Register negated_fma(Register a, Register b, Register c) { return _mm256_fnmadd_ps(a, b, c); }
  /// Lane i becomes lane i ^ distance.
  template <int distance>
  static Register exchange(Register v) {
    if constexpr (distance == 1) return _mm256_permute_ps(v, 0xB1);
    if constexpr (distance == 2) return _mm256_permute_ps(v, 0x4E);
    if constexpr (distance == 4) return _mm256_permute2f128_ps(v, v, 1);
  }

  static Register from_bits(__m128i bits, BFloat16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Register from_bits(__m128i bits, Float16) { return _mm256_cvtph_ps(bits); }

  static Register load(const float* from) { return _mm256_loadu_ps(from); }
  static Register load(const float* from, int count) { return _mm256_maskload_ps(from, first_words(count)); }
  template <class Half>
  static Register load(const Half* from) {
    return from_bits(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), Half{});
  }
  template <class Half>
  static Register load(const Half* from, int count) {
    alignas(16) uint16_t bits[8] = {};
    for (int i = 0; i < count; ++i) bits[i] = from[i].bits;
    return from_bits(_mm_load_si128(reinterpret_cast<const __m128i*>(bits)), Half{});
  }

  static __m128i to_bits(Register value, BFloat16) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    rounded = _mm256_srli_epi32(rounded, 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  }
  static __m128i to_bits(Register value, Float16) { return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT); }

  static void store(float* to, Register value) { _mm256_storeu_ps(to, value); }
  static void store(float* to, Register value, int count) { _mm256_maskstore_ps(to, first_words(count), value); }
  template <class Half>
  static void store(Half* to, Register value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), to_bits(value, Half{}));
  }
  template <class Half>
  static void store(Half* to, Register value, int count) {
    alignas(16) uint16_t bits[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(bits), to_bits(value, Half{}));
    for (int i = 0; i < count; ++i) to[i].bits = bits[i];
  }

  /// The sums of four vectors' lanes.
  static void sum4(const Register (&v)[4], float (&sums)[4]) {
    const Register pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
  }
};

struct DoubleVector {
  using Scalar = double;
  using Register = __m256d;
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 6, kDotStreamed = 4, kDotResident = 2;

  static __m256i first(int count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static __m128i first_floats(int count) { return _mm256_castsi256_si128(first_words(count)); }
  static Register zero() { return _mm256_setzero_pd(); }
  static Register broadcast(double value) { return _mm256_set1_pd(value); }
  static Register add(Register a, Register b) { return _mm256_add_pd(a, b); }
  static Register subtract(Register a, Register b) { return _mm256_sub_pd(a, b); }
  static Register multiply(Register a, Register b) { return _mm256_mul_pd(a, b); }
  static Register fma(Register a, Register b, Register c) { return _mm256_fmadd_pd(a, b, c); }
  static Register negated_fma(Register a, Register b, Register c) { return _mm256_fnmadd_pd(a, b, c); }
  template <int distance>
  static Register exchange(Register v) {
    if constexpr (distance == 1) return _mm256_permute_pd(v, 0x5);
    if constexpr (distance == 2) return _mm256_permute2f128_pd(v, v, 1);
  }
  static Register load(const double* from) { return _mm256_loadu_pd(from); }
  static Register load(const double* from, int count) { return _mm256_maskload_pd(from, first(count)); }
  static Register load(const float* from) { return _mm256_cvtps_pd(_mm_loadu_ps(from)); }
  static Register load(const float* from, int count) {
    return _mm256_cvtps_pd(_mm_maskload_ps(from, first_floats(count)));
  }
  static void store(double* to, Register value) { _mm256_storeu_pd(to, value); }
  static void store(double* to, Register value, int count) { _mm256_maskstore_pd(to, first(count), value); }
  static void store(float* to, Register value) { _mm_storeu_ps(to, _mm256_cvtpd_ps(value)); }
  static void store(float* to, Register value, int count) {
    _mm_maskstore_ps(to, first_floats(count), _mm256_cvtpd_ps(value));
  }
  static void sum4(const Register (&v)[4], double (&sums)[4]) {
    const Register ab = _mm256_hadd_pd(v[0], v[1]), cd = _mm256_hadd_pd(v[2], v[3]);
    _mm_storeu_pd(sums, _mm_add_pd(_mm256_castpd256_pd128(ab), _mm256_extractf128_pd(ab, 1)));
    _mm_storeu_pd(sums + 2, _mm_add_pd(_mm256_castpd256_pd128(cd), _mm256_extractf128_pd(cd, 1)));
  }
};

/// Unsigned 32-bit lanes for Philox.
struct WordVector {
  using Register = __m256i;
  static constexpr int kLanes = 8;
  static Register broadcast(uint32_t value) { return _mm256_set1_epi32(int(value)); }
  static Register load(const uint32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static void store(uint32_t* to, Register value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
  static Register add(Register a, Register b) { return _mm256_add_epi32(a, b); }
  static Register exclusive_or(Register a, Register b, Register c) {
    return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
  }
  /// 1 where a < b, else 0.
  static Register less(Register a, Register b) {
    const __m256i sign = _mm256_set1_epi32(int(0x80000000u));
    return _mm256_srli_epi32(_mm256_cmpgt_epi32(_mm256_xor_si256(b, sign), _mm256_xor_si256(a, sign)), 31);
  }
  static void multiply(Register a, Register factor, Register& high, Register& low) {
    const Register even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }
  /// A 4x4 transposition inside every 128 bits.
  static void transpose4(Register& a, Register& b, Register& c, Register& d) {
    const Register ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    const Register cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    a = _mm256_unpacklo_epi64(ab_low, cd_low), b = _mm256_unpackhi_epi64(ab_low, cd_low);
    c = _mm256_unpacklo_epi64(ab_high, cd_high), d = _mm256_unpackhi_epi64(ab_high, cd_high);
  }
};

}  // namespace
}  // namespace lrk::cpu
