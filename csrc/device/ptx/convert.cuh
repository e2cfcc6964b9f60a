// PTX ISA, "Data Movement and Conversion Instructions: cvt": float to and from the 16-bit types, to nearest even, and
// to tf32.
#pragma once

#include <cstdint>

#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

#if defined(LRK_EMULATE)
inline uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t float_to_bf16_bits(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN, the canonical one of cvt
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline uint16_t float_to_f16_bits(float value) {
  const uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {                                  // below 2^-14: a multiple of 2^-24
    // 0.5f has ulp 2^-24, so adding it rounds to the grid of the subnormals, to nearest even.
    return uint16_t(sign | (float_bits(bits_to_float(magnitude) + 0.5f) - float_bits(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

inline float f16_bits_to_float(uint16_t half) {
  const uint32_t magnitude = uint32_t(half & 0x7fffu) << 13, sign = uint32_t(half & 0x8000u) << 16;
  const float scaled = bits_to_float(magnitude) * 0x1p112f;  // moves the exponent bias from 15 to 127, subnormals too
  return bits_to_float((magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : float_bits(scaled)) | sign);
}
#endif

/// cvt.rn.bf16x2.f32 (sm_80): two floats to two bf16, `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
#if defined(LRK_EMULATE)
  return uint32_t(float_to_bf16_bits(low)) | uint32_t(float_to_bf16_bits(high)) << 16;
#else
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#endif
}

/// cvt.rn.f16x2.f32 (sm_80): two floats to two f16, `low` in the low half.
__device__ __forceinline__ uint32_t pack_f16x2(float low, float high) {
#if defined(LRK_EMULATE)
  return uint32_t(float_to_f16_bits(low)) | uint32_t(float_to_f16_bits(high)) << 16;
#else
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#endif
}

/// cvt.rna.tf32.f32 (sm_80): a float with 10 bits of mantissa, to nearest, ties away from zero. The 13 low bits
/// are 0, but for a NaN.
__device__ __forceinline__ uint32_t round_to_tf32(float value) {
#if defined(LRK_EMULATE)
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffffff;  // NaN, the canonical one
  return (bits + 0x1000u) & 0xffffe000u;                      // a carry out of the largest mantissa gives infinity
#else
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return rounded;
#endif
}

/// bf16 is the upper half of a float.
__device__ __forceinline__ float unpack_bf16(uint16_t bits) {
#if defined(LRK_EMULATE)
  return bits_to_float(uint32_t(bits) << 16);
#else
  return __uint_as_float(uint32_t(bits) << 16);
#endif
}

/// cvt.f32.f16: exact.
__device__ __forceinline__ float unpack_f16(uint16_t bits) {
#if defined(LRK_EMULATE)
  return f16_bits_to_float(bits);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
