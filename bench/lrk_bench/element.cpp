#include "element.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace lrk::bench {
namespace {

struct HalfFormat {
  int fraction_bits, bias, max_exponent;
};
constexpr HalfFormat format_of(DType dtype) {
  return dtype == DType::kFloat16 ? HalfFormat{10, 15, 31} : HalfFormat{7, 127, 255};
}

double load_half(uint16_t bits, HalfFormat format) {
  const int exponent = (bits >> format.fraction_bits) & format.max_exponent;
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == format.max_exponent)
    return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  const int lead = exponent ? 1 << format.fraction_bits : 0;
  return sign * std::ldexp(double(lead + fraction), std::max(exponent, 1) - format.bias - format.fraction_bits);
}

uint16_t store_half(double value, HalfFormat format) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinity = uint16_t(format.max_exponent << format.fraction_bits);
  if (std::isnan(value)) return infinity | 1;
  if (std::isinf(value)) return sign | infinity;
  if (value == 0) return sign;
  uint64_t wide;
  std::memcpy(&wide, &value, sizeof wide);
  const int stored = int(wide >> 52 & 0x7ff) - 1023 + format.bias;
  if (stored > 0 && stored < format.max_exponent) {
    // Normal numbers: round the fraction of the double; a carry moves on into the exponent, as it should.
    const int dropped = 52 - format.fraction_bits;
    const uint64_t fraction = wide & ((uint64_t(1) << 52) - 1), odd = fraction >> dropped & 1;
    const uint64_t rounded = (fraction + (uint64_t(1) << (dropped - 1)) - 1 + odd) >> dropped;
    const uint64_t bits = (uint64_t(stored) << format.fraction_bits) + rounded;
    return sign | uint16_t(std::min<uint64_t>(bits, infinity));
  }
  const int exponent = std::max(std::ilogb(value), 1 - format.bias);
  const double units = std::nearbyint(std::ldexp(std::fabs(value), format.fraction_bits - exponent));
  const int64_t bits = (int64_t(exponent + format.bias - 1) << format.fraction_bits) + int64_t(units);
  return sign | (bits >= infinity ? infinity : uint16_t(bits));
}

}  // namespace

double load(DType dtype, const void* data, int64_t index) {
  switch (dtype) {
    case DType::kFloat64: return static_cast<const double*>(data)[index];
    case DType::kFloat32: return static_cast<const float*>(data)[index];
    case DType::kBFloat16: {
      const uint32_t bits = uint32_t(static_cast<const uint16_t*>(data)[index]) << 16;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      return value;
    }
    case DType::kFloat16: break;
  }
  return load_half(static_cast<const uint16_t*>(data)[index], format_of(dtype));
}

void store(DType dtype, void* data, int64_t index, double value) {
  switch (dtype) {
    case DType::kFloat64: static_cast<double*>(data)[index] = value; return;
    case DType::kFloat32: static_cast<float*>(data)[index] = float(value); return;
    default: static_cast<uint16_t*>(data)[index] = store_half(value, format_of(dtype)); return;
  }
}

double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return std::ldexp(1.0, -53);
    case DType::kFloat32: return std::ldexp(1.0, -24);
    case DType::kBFloat16: return std::ldexp(1.0, -8);
    case DType::kFloat16: return std::ldexp(1.0, -11);
  }
  return 0;
}

const char* short_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return "fp64";
    case DType::kFloat32: return "fp32";
    case DType::kBFloat16: return "bf16";
    case DType::kFloat16: return "fp16";
  }
  return "unknown";
}

}  // namespace lrk::bench
