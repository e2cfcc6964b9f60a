// Processor faults of a kernel: the end of a fiber's stack, an address that is nowhere, a division by zero. What no
// check has seen still dies of its signal, but not before a line on standard error has named kernel, block and thread.
#pragma once

#include <csignal>

#include "device/emulator/memory.h"

namespace lrk::emulator {

/// As long as one lives, a signal in a thread that runs a kernel is described before it goes where it would have gone:
/// to the handler that was there before (Python's faulthandler, a sanitizer), or to the default action.
class CrashReports {
 public:
  CrashReports();
  ~CrashReports();
  CrashReports(const CrashReports&) = delete;
  CrashReports& operator=(const CrashReports&) = delete;
};

/// A stack for the handlers of the constructing thread, whose own may be the one that has ended.
class SignalStack {
 public:
  SignalStack();
  ~SignalStack();
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  GuardedPages pages_;
  stack_t previous_;
};

}  // namespace lrk::emulator
