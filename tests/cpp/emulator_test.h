// What the tests of the emulator share: counting checks, starting kernels, and reading what a launch reports.
#pragma once

#if !defined(LRK_EMULATE)
#define LRK_EMULATE
#endif

#include <cctype>
#include <cstdio>
#include <fstream>
#include <string>

#include "device/global_memory.cuh"
#include "device/launch.cuh"

namespace lrk::testing {

inline int failures = 0, checks = 0;

inline void expect(bool condition, const std::string& what) {
  ++checks;
  if (condition) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

template <class Kernel, class... Arguments>
Status start(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, const Arguments&... arguments) {
  return launch(kernel, LaunchConfig(grid, block, shared_bytes, Context{}), arguments...);
}

inline bool mentions(const Status& status, const std::string& text) {
  if (status.code == StatusCode::kDeviceError && status.message.find(text) != std::string::npos) return true;
  std::printf("  status says: \"%s\", expected \"%s\"\n", status.message.c_str(), text.c_str());
  return false;
}

/// "file.cpp:LINE" of the only line of `file` that ends with the comment "// [marker]".
inline std::string line_with(const char* file, const std::string& marker) {
  std::ifstream source(file);
  const std::string ending = "// [" + marker + "]", path = file;
  std::string line, found;
  for (int number = 1; std::getline(source, line); ++number) {
    if (line.size() < ending.size() || line.compare(line.size() - ending.size(), ending.size(), ending) != 0) continue;
    expect(found.empty(), "the marker [" + marker + "] stands twice in the test");
    found = path.substr(path.rfind('/') + 1) + ":" + std::to_string(number);
  }
  expect(!found.empty(), "the marker [" + marker + "] stands in the test");
  return found;
}

/// What a report must say: that kernel `kernel` of block (block, 0, 0) and thread `thread` did `what` in the line with
/// `marker`; and, unless it is empty, that the other party's place is the line with `other`.
struct Expected {
  const char* kernel;
  unsigned block, thread;
  const char* what;
  const char* marker;
  const char* other = "";
};

inline void expect_report(const char* file, const Status& status, const Expected& expected) {
  const std::string text = status.message, name = std::string(expected.kernel) + " [" + expected.marker + "]";
  const std::string start = "emulator: kernel " + std::string(expected.kernel) + ", block (" +
                            std::to_string(expected.block) + ", 0, 0), thread " + std::to_string(expected.thread) +
                            " (";
  const size_t what = text.find(expected.what), at = text.find("), at ");
  const auto names = [&](const std::string& place, size_t from, size_t to) {
    const size_t found = text.find(place, from);
    return found != std::string::npos && found < to && isdigit(text.c_str()[found + place.size()]) == 0;
  };
  bool good = status.code == StatusCode::kDeviceError && text.compare(0, start.size(), start) == 0 &&
              what != std::string::npos && at != std::string::npos &&
              names(line_with(file, expected.marker), at, what);
  if (*expected.other != '\0') good = good && names(line_with(file, expected.other), what, std::string::npos);
  if (!good) std::printf("  status says: \"%s\"\n", text.c_str());
  expect(good, name + ": is reported as \"" + expected.what + "\" with its place");
}

inline void expect_silence(const Status& status, const std::string& name) {
  if (!status.ok()) std::printf("  status says: \"%s\"\n", status.message.c_str());
  expect(status.ok(), name + ": the kernel without the bug runs");
}

inline int report() {
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace lrk::testing
