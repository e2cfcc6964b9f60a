// The 16-bit storage types and their conversions. Kernels compute in float; these only carry bits. No CUDA header is
// needed, so the same words work in the emulated build.
#pragma once

#include <cstdint>

#include "device/ptx/convert.cuh"

namespace lrk {
inline namespace LRK_TARGET {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(BFloat16 value) { return ptx::unpack_bf16(value.bits); }
__device__ __forceinline__ float to_float(Float16 value) { return ptx::unpack_f16(value.bits); }

/// Two rounded 16-bit values of type T in one word, `low` in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack_pair<BFloat16>(float low, float high) { return ptx::pack_bf16x2(low, high); }
template <>
__device__ __forceinline__ uint32_t pack_pair<Float16>(float low, float high) { return ptx::pack_f16x2(low, high); }

/// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float value) { return T{uint16_t(pack_pair<T>(value, 0.0f) & 0xffffu)}; }
template <>
__device__ __forceinline__ float from_float<float>(float value) { return value; }

/// The low and the high half of a word of two T.
template <class T>
__device__ __forceinline__ float low_half(uint32_t word) { return to_float(T{uint16_t(word & 0xffffu)}); }
template <class T>
__device__ __forceinline__ float high_half(uint32_t word) { return to_float(T{uint16_t(word >> 16)}); }

}  // namespace LRK_TARGET
}  // namespace lrk
