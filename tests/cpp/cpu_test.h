// What the C++ tests of CPU kernels share: checks, work memory that is not initialised, random numbers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <list>
#include <string>
#include <vector>

#include "device/philox.h"
#include "lrk/context.h"

namespace lrk::testing {

using Dense = std::vector<double>;  // row-major

inline int failures = 0, checks = 0;

inline void expect(bool condition, const std::string& what) {
  ++checks;
  if (condition) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

/// Memory full of NaNs, all on this thread.
struct TestContext {
  std::list<std::vector<double>> memory;
  Context context;

  TestContext() {
    context.parallel_for = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) { body(0, tasks); };
    context.allocate = [this](size_t bytes) -> void* {
      memory.emplace_back(bytes / 8 + 64, std::numeric_limits<double>::quiet_NaN());
      const auto address = reinterpret_cast<uintptr_t>(memory.back().data());
      return reinterpret_cast<void*>((address + 255) / 256 * 256);
    };
  }
};

/// Uniform in [-1, 1).
inline Dense random(int64_t count, uint64_t seed) {
  Dense values;
  for (int64_t i = 0; i < count; ++i) values.push_back(philox_element(seed, uint64_t(i)) / 2147483648.0 - 1);
  return values;
}

}  // namespace lrk::testing
