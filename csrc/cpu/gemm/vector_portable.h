// 128-bit vectors in the compiler's own vector types: what kernels_impl.h asks of an instruction set, for any CPU.
#pragma once

#include "cpu/gemm/element.h"

namespace lrk::cpu {
namespace {

inline float widen(BFloat16 value) { return bits_to_float(uint32_t(value.bits) << 16); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

inline float widen(Float16 value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Shifting exponent and mantissa into float's place leaves the value 2^-112 too small, denormals included.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}

/// Round to nearest, ties to even; NaN stays NaN.
inline Float16 narrow(float value, Float16) {
  const uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // A half denormal counts units of 2^-24; adding 0.5 lets float's own rounding find the count.
    return {uint16_t(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - float_to_bits(0.5f)))};
  }
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13))};
}

template <class T, int lanes>
struct PortableVector {
  using Scalar = T;
  typedef T Register __attribute__((vector_size(16)));
  static constexpr int kLanes = lanes;
  static constexpr int kTileRows = 6, kDotStreamed = 4, kDotResident = 2;

  static Register zero() { return Register{}; }
  static Register broadcast(T value) { return Register{} + value; }
  static Register add(Register a, Register b) { return a + b; }
  static Register subtract(Register a, Register b) { return a - b; }
  static Register multiply(Register a, Register b) { return a * b; }
  static Register fma(Register a, Register b, Register c) { return a * b + c; }
  /// c - a b.
  static Register negated_fma(Register a, Register b, Register c) { return c - a * b; }
  /// Lane i becomes lane i ^ distance.
  template <int distance>
  static Register exchange(Register v) {
    Register result;
    for (int i = 0; i < lanes; ++i) result[i] = v[i ^ distance];
    return result;
  }
  static Register load(const T* from) {
    Register value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  template <class Element>
  static Register load(const Element* from) {
    Register value;
    for (int i = 0; i < lanes; ++i) value[i] = widen(from[i]);
    return value;
  }
  template <class Element>
  static Register load(const Element* from, int count) {
    Register value{};
    for (int i = 0; i < count; ++i) value[i] = widen(from[i]);
    return value;
  }
  static void store(T* to, Register value) { std::memcpy(to, &value, sizeof value); }
  template <class Element>
  static void store(Element* to, Register value) {
    for (int i = 0; i < lanes; ++i) to[i] = narrow(value[i], Element{});
  }
  template <class Element>
  static void store(Element* to, Register value, int count) {
    for (int i = 0; i < count; ++i) to[i] = narrow(value[i], Element{});
  }
  static void sum4(const Register (&v)[4], T (&sums)[4]) {
    for (int i = 0; i < 4; ++i) {
      sums[i] = 0;
      for (int lane = 0; lane < lanes; ++lane) sums[i] += v[i][lane];
    }
  }
};

using FloatVector = PortableVector<float, 4>;
using DoubleVector = PortableVector<double, 2>;

/// Unsigned 32-bit lanes for Philox.
struct WordVector {
  typedef uint32_t Register __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static Register broadcast(uint32_t value) { return Register{} + value; }
  static Register load(const uint32_t* from) { return Register{from[0], from[1], from[2], from[3]}; }
  static void store(uint32_t* to, Register value) { std::memcpy(to, &value, sizeof value); }
  static Register add(Register a, Register b) { return a + b; }
  static Register exclusive_or(Register a, Register b, Register c) { return a ^ b ^ c; }
  /// 1 where a < b, else 0.
  static Register less(Register a, Register b) {
    Register result;
    for (int i = 0; i < 4; ++i) result[i] = a[i] < b[i];
    return result;
  }
  static void multiply(Register a, Register factor, Register& high, Register& low) {
    for (int i = 0; i < 4; ++i) {
      const uint64_t product = uint64_t(a[i]) * factor[i];
      high[i] = uint32_t(product >> 32), low[i] = uint32_t(product);
    }
  }
  static void transpose4(Register& a, Register& b, Register& c, Register& d) {
    const Register rows[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) a[i] = rows[i][0], b[i] = rows[i][1], c[i] = rows[i][2], d[i] = rows[i][3];
  }
};

}  // namespace
}  // namespace lrk::cpu
