// What this machine can do at most: copies between memories larger than the caches, and arithmetic that needs no memory.
// Measured beside every case and the best kept, because a shared machine is not equally fast all the time. A kernel that
// takes max(flops / peak, bytes / bandwidth) is at 100 %.
#pragma once

#include <map>

#include "device.h"

namespace lrk::bench {

class Roofline {
 public:
  explicit Roofline(Device& device) : device_(device) {}

  /// Once more, for one dtype.
  void measure(DType dtype);

  /// GB/s, reads and writes both counted.
  double bandwidth() const { return bandwidth_; }
  const std::map<DType, Peak>& peaks() const { return peaks_; }

  struct Share {
    double percent = 0;       // of the roofline; above 100 when data stays in a cache
    bool compute_bound = false;
  };
  /// percent 0 where a peak could not be measured.
  Share share(double microseconds, double flops, double bytes, DType dtype) const;

 private:
  Device& device_;
  double bandwidth_ = 0;
  std::map<DType, Peak> peaks_;
};

}  // namespace lrk::bench
