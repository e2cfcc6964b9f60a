#include "run.h"

#include <memory>
#include <new>

namespace lrk::bench {
namespace {

/// Pins a kernel for a scope.
class Force {
 public:
  explicit Force(const std::string& kernel) : before_(forced_kernel()) { force_kernel(kernel); }
  ~Force() { force_kernel(before_); }
  Force(const Force&) = delete;
  Force& operator=(const Force&) = delete;

 private:
  std::string before_;
};

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : " ; ") + name;
  return text;
}

}  // namespace

CaseReport run_case(const Case& original, Device& device, CublasLt* library, const TimingOptions& options,
                    const std::string& kernel) {
  CaseReport report;
  const std::unique_ptr<Problem> problem = make_problem(original, device);
  const Case& c = problem->c;
  report.c = c, report.mode = options.mode;
  std::string force = kernel;
  if (const std::string planned = problem->library_plan(); force.empty() && !planned.empty()) {
    force = "lowrank_linear_";
    report.notes.push_back("the torch op would run " + planned + "; measured here is the fused kernel");
  }
  const Force forced(force);
  const std::vector<Contender> contenders = problem->contenders(library, &report.notes);

  std::vector<Call> calls;
  std::vector<size_t> timed;
  for (const Contender& contender : contenders) {
    ContenderReport& entry = report.contenders.emplace_back();
    entry.name = contender.name;
    start_trace();
    entry.verification = verify(device, contender.call, contender.results);
    entry.kernels = joined(stop_trace());
    if (!entry.verification.ok || !device.has_meaningful_time()) continue;
    calls.push_back(contender.call);
    timed.push_back(report.contenders.size() - 1);
  }
  if (!device.has_meaningful_time()) report.notes.push_back("verified only: the emulator's time is not a GPU's");
  if (calls.empty()) return report;

  const std::vector<Measurement> measurements = measure(device, calls, options);
  for (size_t i = 0; i < timed.size(); ++i) {
    ContenderReport& entry = report.contenders[timed[i]];
    if (!measurements[i].status.ok()) {
      entry.verification.ok = false;
      entry.verification.failure = "while it was timed: " + measurements[i].status.message;
      continue;
    }
    entry.time = measurements[i];
    const double us = entry.time.median_us;
    // Of the operation as defined, for every contender: work that a path adds is not credited to it.
    entry.gflops = flops(c) / us * 1e-3, entry.gigabytes_per_second = compulsory_bytes(c) / us * 1e-3;
    const ContenderReport& ours = report.contenders.front();
    if (ours.time.samples > 0) entry.times_slower = us / ours.time.median_us;
  }
  return report;
}

void add_roofline(const Roofline& roofline, std::vector<CaseReport>* reports) {
  for (CaseReport& report : *reports) {
    const Case& c = report.c;
    for (ContenderReport& entry : report.contenders)
      entry.roofline = roofline.share(entry.time.median_us, flops(c), compulsory_bytes(c), c.dtype);
  }
}

}  // namespace lrk::bench
