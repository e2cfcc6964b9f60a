// The command line. Every mistake names the argument, what was expected and what came.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "problem.h"
#include "timing.h"

namespace lrk::bench {

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Command { kHelp, kList, kRun, kSmoke, kRoofline };
enum class Format { kTable, kCsv, kJson };

struct Arguments {
  Command command = Command::kHelp;
  std::vector<Case> cases;        // run: every combination of the lists that were given
  std::vector<DType> dtypes;      // roofline
  std::string device = "cpu";
  int threads = 0;                // 0: every CPU the process may use
  TimingOptions timing;
  std::string kernel;             // for force_kernel; empty: the backend's own choice
  Format format = Format::kTable;
  std::string out;                // empty: standard output
};

/// `words` without the program's name. Throws UsageError.
Arguments parse_arguments(const std::vector<std::string>& words);

/// What `lrk_bench help` prints.
std::string usage();

}  // namespace lrk::bench
