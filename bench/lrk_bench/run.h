// From cases to measured, verified results.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "problem.h"
#include "roofline.h"
#include "timing.h"

namespace lrk::bench {

struct ContenderReport {
  std::string name;
  std::string kernels;  // what ran, in order
  Verification verification;
  Measurement time;     // samples 0 when the result was wrong, or the device's time means nothing
  double gflops = 0, gigabytes_per_second = 0;
  Roofline::Share roofline;
  double times_slower = 0;  // its time over that of lrkernels
};

struct CaseReport {
  Case c;
  Mode mode = Mode::kCold;
  std::vector<ContenderReport> contenders;  // lrkernels first
  std::vector<std::string> notes;

  bool failed() const {
    for (const ContenderReport& contender : contenders)
      if (!contender.verification.ok) return true;
    return false;
  }
};

/// `kernel` is for force_kernel; when it is empty a fused kernel is chosen where the plan would have torch's GEMM first.
CaseReport run_case(const Case& c, Device& device, CublasLt* library, const TimingOptions& options,
                    const std::string& kernel);

/// Fills in the shares of the roofline, once everything is measured.
void add_roofline(const Roofline& roofline, std::vector<CaseReport>* reports);

}  // namespace lrk::bench
