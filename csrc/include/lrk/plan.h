// Which kernel runs, and why: what explain(), trace() and force() of the Python package show.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace lrk {

struct Rejected {
  std::string kernel;
  std::string reason;
};

/// The outcome of a path choice. `kernel` says family, direction, architecture and tile, for example
/// "lowrank_linear_sm80_128x128x32" or "lowrank_linear_avx512_14x32".
struct Plan {
  std::string kernel;
  std::string reason;
  std::vector<Rejected> rejected;
  size_t workspace_bytes = 0;
  bool hardware_verified = false;
  /// The caller computes it with its library GEMM. Of a linear with a weight only x weightT + bias: the rest is another
  /// linear, without the weight, whose base that is.
  bool library_gemm = false;
};

/// Appends `kernel` to the running trace and to the log (LRK_LOG=dispatch). Cheap when neither is on.
void record_dispatch(const std::string& kernel);

/// Process-wide inspection switches, used by tests and by people looking at a problem; off by default.
void start_trace();
std::vector<std::string> stop_trace();

/// Prefers candidates whose name contains `substring`; an empty string restores the heuristics.
void force_kernel(const std::string& substring);
std::string forced_kernel();

}  // namespace lrk
