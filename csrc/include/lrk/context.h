// What a kernel may use while it runs. The caller owns all of it; nothing outlives the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace lrk {

struct Context {
  /// CPU: calls body(begin, end) over a partition of [0, tasks) and returns when all are done. Must be set.
  /// A kernel splits its work into tasks by shape alone, so the result does not depend on the number of threads.
  std::function<void(int64_t tasks, const std::function<void(int64_t begin, int64_t end)>& body)> parallel_for;

  /// Scratch memory on the kernel's device, 256-byte aligned, not initialised, alive until the caller drops it
  /// (on CUDA: until the work enqueued on `stream` no longer needs it). Returns nullptr when out of memory.
  std::function<void*(size_t bytes)> allocate;

  /// CUDA: the stream (cudaStream_t) to enqueue on and the device it belongs to.
  void* stream = nullptr;
  int device = 0;
};

}  // namespace lrk
