#include "roofline.h"

#include <algorithm>

namespace lrk::bench {

void Roofline::measure(DType dtype) {
  const Peak peak = device_.measure_peak(dtype);
  if (peak.gflops >= peaks_[dtype].gflops) peaks_[dtype] = peak;

  const size_t bytes = std::max<size_t>(2 * device_.cache_bytes(), size_t(64) << 20);
  void* from = device_.allocate(bytes);
  void* to = device_.allocate(bytes);
  // The fastest copy, because other work on the machine can only slow one down. The first ones touch new pages.
  for (int turn = 0; turn < 8; ++turn) {
    const auto [microseconds, status] = device_.time([&] { return device_.copy(to, from, bytes); }, 1);
    if (turn >= 2 && status.ok()) bandwidth_ = std::max(bandwidth_, 2.0 * double(bytes) / microseconds * 1e-3);
  }
  device_.release(from);
  device_.release(to);
}

Roofline::Share Roofline::share(double microseconds, double flops, double bytes, DType dtype) const {
  const auto peak = peaks_.find(dtype);
  const double compute_us = peak != peaks_.end() && peak->second.gflops > 0 ? flops / peak->second.gflops * 1e-3 : 0;
  const double memory_us = bandwidth_ > 0 ? bytes / bandwidth_ * 1e-3 : 0;
  if (compute_us == 0 || memory_us == 0 || microseconds <= 0) return {};
  return {100 * std::max(compute_us, memory_us) / microseconds, compute_us > memory_us};
}

}  // namespace lrk::bench
