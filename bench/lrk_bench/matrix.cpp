#include "matrix.h"

#include <limits>

#include "element.h"

namespace lrk::bench {
namespace {

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the bits of one position.
uint64_t mixed(uint64_t state) {
  state += 0x9E3779B97F4A7C15u;
  state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
  state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
  return state ^ (state >> 31);
}

/// Four uniform 16-bit numbers added: close to normal, with deviation 1, and cheap.
double normal(uint64_t bits) {
  double sum = 0;
  for (int part = 0; part < 4; ++part) sum += double((bits >> (16 * part)) & 0xffff) / 65536.0 - 0.5;
  return sum * 1.7320508075688772;
}

}  // namespace

Matrix::Matrix(Device& device, int64_t rows, int64_t cols, DType dtype)
    : device_(device), rows_(rows), cols_(cols), dtype_(dtype), host_(size_t(rows * cols) * size_of(dtype)),
      data_(device.allocate(host_.size())) {}

void Matrix::fill(uint64_t seed, double deviation) {
  const uint64_t key = mixed(seed);
  for (int64_t i = 0; i < rows_ * cols_; ++i)
    store(dtype_, host_.data(), i, deviation * normal(mixed(key + uint64_t(i))));
  device_.upload(data_, host_.data(), host_.size());
}

void Matrix::poison() {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int64_t i = 0; i < rows_ * cols_; ++i) store(dtype_, host_.data(), i, nan);
  device_.upload(data_, host_.data(), host_.size());
}

}  // namespace lrk::bench
