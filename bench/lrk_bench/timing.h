// When a median is believed.
//
// Contenders are timed in turn, one sample each a round, so that whatever else the machine does hits them alike.
//   cold:  a sample is one call, after the caches were emptied.
//   batch: a sample is as many calls back to back as take kBatchMicroseconds; its time is divided by their number.
// Warm-up: each contender runs twice and for kWarmUpMicroseconds (once when a call takes longer than that).
// Rounds go on until, for every contender, the 95 % confidence interval of the median (the order statistics
// n/2 +- 0.98 sqrt(n), which assume nothing about the distribution) lies within +-tolerance of it, after at least
// kMinRounds; or until the time is up, which `settled = false` then says.
#pragma once

#include <vector>

#include "device.h"

namespace lrk::bench {

enum class Mode { kCold, kBatch };

struct TimingOptions {
  Mode mode = Mode::kCold;
  double seconds = 3;        // for all contenders of a case together
  double tolerance = 0.02;
};

constexpr int kMinRounds = 9;
constexpr double kWarmUpMicroseconds = 20e3, kBatchMicroseconds = 5e3;

struct Measurement {
  double median_us = 0, low_us = 0, high_us = 0;  // the confidence interval of the median
  int samples = 0, calls_per_sample = 1;
  bool settled = false;
  Status status;
};

/// The median of samples in any order, with its interval; settled when that is within `tolerance`.
Measurement summarize(std::vector<double> samples_us, double tolerance);

std::vector<Measurement> measure(Device& device, const std::vector<Call>& calls, const TimingOptions& options);

}  // namespace lrk::bench
