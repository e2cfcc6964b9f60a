#include "timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace lrk::bench {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

Measurement summarize(std::vector<double> samples_us, double tolerance) {
  Measurement measurement;
  measurement.samples = int(samples_us.size());
  if (samples_us.empty()) return measurement;
  std::sort(samples_us.begin(), samples_us.end());
  const size_t last = samples_us.size() - 1;
  measurement.median_us = (samples_us[last / 2] + samples_us[(last + 1) / 2]) / 2;
  const double half_width = 0.98 * std::sqrt(double(samples_us.size())), middle = double(last) / 2;
  measurement.low_us = samples_us[size_t(std::max(0.0, std::floor(middle - half_width)))];
  measurement.high_us = samples_us[std::min(last, size_t(std::ceil(middle + half_width)))];
  measurement.settled = measurement.samples >= kMinRounds &&
                        measurement.high_us <= measurement.median_us * (1 + tolerance) &&
                        measurement.low_us >= measurement.median_us * (1 - tolerance);
  return measurement;
}

std::vector<Measurement> measure(Device& device, const std::vector<Call>& calls, const TimingOptions& options) {
  const size_t count = calls.size();
  std::vector<Measurement> measurements(count);
  std::vector<std::vector<double>> samples(count);
  std::vector<int> calls_per_sample(count, 1);
  const auto keep_status = [&](size_t i, Status status) {
    if (!status.ok() && measurements[i].status.ok()) measurements[i].status = std::move(status);
  };
  const auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < count; ++i) {
    double spent = 0, fastest = 0;
    for (int turn = 0; turn == 0 || (spent < kWarmUpMicroseconds && turn < 10000); ++turn) {
      auto [microseconds, status] = device.time(calls[i], 1);
      keep_status(i, std::move(status));
      spent += microseconds;
      fastest = turn == 0 ? microseconds : std::min(fastest, microseconds);
    }
    if (options.mode == Mode::kBatch)
      calls_per_sample[i] = int(std::clamp(std::ceil(kBatchMicroseconds / std::max(fastest, 0.1)), 1.0, 100000.0));
  }

  for (int round = 0;; ++round) {
    for (size_t turn = 0; turn < count; ++turn) {
      const size_t i = (turn + size_t(round)) % count;  // nobody always runs after the same one
      if (options.mode == Mode::kCold) device.flush_caches();
      auto [microseconds, status] = device.time(calls[i], calls_per_sample[i]);
      keep_status(i, std::move(status));
      samples[i].push_back(microseconds / calls_per_sample[i]);
    }
    const bool out_of_time = seconds_since(begin) > options.seconds;
    if (round + 1 < kMinRounds && !out_of_time) continue;
    bool settled = true;
    for (size_t i = 0; i < count; ++i) settled = settled && summarize(samples[i], options.tolerance).settled;
    if (settled || out_of_time) break;
  }
  for (size_t i = 0; i < count; ++i) {
    Status status = std::move(measurements[i].status);
    measurements[i] = summarize(std::move(samples[i]), options.tolerance);
    measurements[i].calls_per_sample = calls_per_sample[i];
    measurements[i].status = std::move(status);
  }
  return measurements;
}

}  // namespace lrk::bench
