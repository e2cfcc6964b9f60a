// The Gaussian sketching matrix of python/lrkernels/reference/sketch.py, times a number: pairs by Box and Muller, in float64, a thread a
// pair. For the start of a range finder of matrices with few columns: 64 x 64 entries are 2048 pairs.
#pragma once

#include "device/philox.h"
#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kGaussianThreads = 128;

struct GaussianParameters {
  uint64_t seed = 0;
  int64_t features = 0, size = 0;
  double scale = 1.0;
  float* matrix = nullptr;  // [features, size], contiguous
};

__global__ void __launch_bounds__(kGaussianThreads) gaussian_kernel(const GaussianParameters parameters) {
  constexpr double kTwoPi = 6.28318530717958647693;
  const int64_t pair = int64_t(blockIdx.x) * kGaussianThreads + int(threadIdx.x);
  const int64_t i = pair % parameters.features, j = pair / parameters.features * 2;
  if (j >= parameters.size) return;
  const PhiloxBlock block = philox4x32_10(parameters.seed, uint64_t(pair / 2));
  const bool is_second = pair % 2 != 0;
  const double u = (double(is_second ? block.word[2] : block.word[0]) + 1.0) / 4294967296.0;
  const double v = double(is_second ? block.word[3] : block.word[1]) / 4294967296.0;
  const double radius = sqrt(-2.0 * log(u)) / sqrt(double(parameters.size)) * parameters.scale;
  float* const row = parameters.matrix + i * parameters.size;
  row[j] = float(radius * cos(kTwoPi * v));
  if (j + 1 < parameters.size) row[j + 1] = float(radius * sin(kTwoPi * v));
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
