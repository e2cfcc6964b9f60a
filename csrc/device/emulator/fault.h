// What a launch reports when its kernel did something wrong.
#pragma once

#include <string>
#include <vector>

#include "device/emulator/thread.h"

namespace lrk::emulator {

/// `what`, then "; <text> at <line>" for each related place.
struct Fault {
  struct Place {
    std::string text;
    const void* pc = nullptr;
  };
  std::string what;
  int lane = -1;  // of the running thread's warp, when it is not the running thread's fault
  Dim3 block;
  bool has_thread = false;
  size_t thread = 0;
  Dim3 thread_index;
  std::vector<const void*> stack;  // return addresses, innermost first
  std::vector<Place> related;
};

/// Ends the running thread's launch.
[[noreturn]] void fault(std::string what);

/// The return addresses of the calling fiber or thread, innermost first.
std::vector<const void*> call_stack();

/// "(x, y, z)"
std::string triple(const Dim3& of);

/// "kernel K, block (x, y, z), thread t (x, y, z), at FILE:LINE < FILE:LINE: WHAT; ..."
std::string describe(const void* kernel, const Fault& fault);

/// Whether two calls stand in the same line, inlined into the same lines, as far as is known.
bool same_place(const void* pc, const void* other_pc);

}  // namespace lrk::emulator
