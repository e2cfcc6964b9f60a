// What the host side hands over: a launch, and the global memory that it may touch.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "device/emulator/thread.h"

namespace lrk::emulator {

/// What the emulated device says of itself: an sm_80 with few multiprocessors, so that small problems already
/// take the paths that large ones take on a GPU.
constexpr int kMultiprocessors = 4;
constexpr size_t kMaxSharedBytes = 163 << 10;  // of a block
constexpr size_t kMaxThreads = 1024, kMaxThreadsAlongZ = 64;  // of a block
constexpr size_t kSharedBytesPerMultiprocessor = 164 << 10, kReservedSharedBytes = 1 << 10;
constexpr size_t kThreadsPerMultiprocessor = 2048, kBlocksPerMultiprocessor = 32;

/// Global memory of which kernels may touch `lines` runs of `line_bytes`, `stride` bytes apart.
struct MemorySpan {
  const char* begin = nullptr;
  size_t line_bytes = 0, lines = 1, stride = 0;
  bool writable = false;
  std::string name;  // for reports

  size_t extent() const { return lines == 0 ? 0 : (lines - 1) * stride + line_bytes; }
};

/// Memory that launches of the constructing operating-system thread may touch as long as the object lives, which ends
/// on that thread. Looked at in checked mode only, where an access outside of it is a fault.
class RegisteredSpans {
 public:
  RegisteredSpans();
  ~RegisteredSpans();
  RegisteredSpans(const RegisteredSpans&) = delete;
  RegisteredSpans& operator=(const RegisteredSpans&) = delete;

  void add(MemorySpan span) { spans_.push_back(std::move(span)); }
  /// Those of all living objects.
  static std::vector<MemorySpan> of_this_thread();

 private:
  static std::vector<const RegisteredSpans*>& alive();
  std::vector<MemorySpan> spans_;
};

struct Launch {
  const void* kernel = nullptr;  // only its name is wanted
  Dim3 grid, block;
  size_t shared_bytes = 0;
  bool cooperative = false;   // all blocks are alive at once
  bool programmatic = false;  // may start before the launch before it has finished
  const void* stream = nullptr;
  void (*body)(const void* closure) = nullptr;  // runs the kernel once; every thread calls it
  const void* closure = nullptr;
  std::vector<MemorySpan> parameters;  // host memory from which `body` copies the kernel's parameters
};

/// Calls body(closure) for every thread of every block. Returns an empty string, or the first fault.
std::string run(const Launch& launch);

}  // namespace lrk::emulator
