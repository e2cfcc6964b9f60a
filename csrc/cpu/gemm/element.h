// The 16-bit storage types and their scalar conversions, for code that is compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

namespace lrk::cpu {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Round to nearest, ties to even; NaN stays NaN.
inline BFloat16 narrow(float value, BFloat16) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline float narrow(float value, float) { return value; }
inline double narrow(double value, double) { return value; }
inline float narrow(double value, float) { return float(value); }

}  // namespace
}  // namespace lrk::cpu
