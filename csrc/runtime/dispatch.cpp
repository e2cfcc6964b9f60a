// The inspection switches of plan.h: a trace, a log line and a forced choice, shared by every family.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <sstream>

#include "lrk/plan.h"

namespace lrk {
namespace {

struct Inspection {
  std::mutex mutex;
  std::vector<std::string> trace;
  std::string forced;
};

Inspection& inspection() {
  static Inspection instance;
  return instance;
}

// Read on every dispatch without the lock, so that nobody pays for switches that are off.
std::atomic<bool> tracing{false};
std::atomic<bool> forcing{false};

/// LRK_LOG is a comma-separated list of what to print. Read once, and a word nobody knows is said once.
bool logging() {
  static const bool enabled = [] {
    const char* value = std::getenv("LRK_LOG");
    std::istringstream words(value != nullptr ? value : "");
    bool dispatch = false;
    for (std::string word; std::getline(words, word, ',');) {
      dispatch = dispatch || word == "dispatch";
      if (word != "dispatch" && !word.empty())
        std::fprintf(stderr, "lrk: LRK_LOG has no '%s'; accepted values: dispatch\n", word.c_str());
    }
    return dispatch;
  }();
  return enabled;
}

}  // namespace

void record_dispatch(const std::string& kernel) {
  if (logging()) std::fprintf(stderr, "lrk dispatch: %s\n", kernel.c_str());
  if (!tracing.load(std::memory_order_acquire)) return;
  std::lock_guard lock(inspection().mutex);
  inspection().trace.push_back(kernel);
}

void start_trace() {
  std::lock_guard lock(inspection().mutex);
  inspection().trace.clear();
  tracing.store(true, std::memory_order_release);
}

std::vector<std::string> stop_trace() {
  std::lock_guard lock(inspection().mutex);
  tracing.store(false, std::memory_order_release);
  return std::move(inspection().trace);
}

void force_kernel(const std::string& substring) {
  std::lock_guard lock(inspection().mutex);
  inspection().forced = substring;
  forcing.store(!substring.empty(), std::memory_order_release);
}

std::string forced_kernel() {
  if (!forcing.load(std::memory_order_acquire)) return {};
  std::lock_guard lock(inspection().mutex);
  return inspection().forced;
}

}  // namespace lrk
