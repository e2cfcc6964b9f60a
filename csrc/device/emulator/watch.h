// Whether the code that an operating-system thread runs right now is a kernel's own, whose memory accesses the checked
// mode looks at, or the emulator's and the host's, which are nobody's business.
#pragma once

namespace lrk::emulator {

class Checker;

/// nullptr: nobody looks.
extern constinit thread_local Checker* watching;

/// Sets who looks while it lives. Fibers switch inside such scopes only, so each gets its own back.
class Watch {
 public:
  explicit Watch(Checker* checker) : before_(watching) { watching = checker; }
  ~Watch() { watching = before_; }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  Checker* before_;
};

/// The emulator at work inside a kernel.
class Unwatched : Watch {
 public:
  Unwatched() : Watch(nullptr) {}
};

}  // namespace lrk::emulator
