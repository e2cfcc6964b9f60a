// The memory of a launch chain's intermediates, from the caller's allocator. Host only.
#pragma once

#include <string>

#include "device/global_memory.cuh"
#include "lrk/context.h"
#include "lrk/types.h"

namespace lrk {
inline namespace LRK_TARGET {

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

/// Cuts a workspace into 256-byte aligned pieces. First every piece is reserved, then the memory is set.
class Workspace {
 public:
  size_t reserve(size_t bytes) {
    const size_t offset = bytes_;
    bytes_ += size_t(round_up(int64_t(bytes), 256));
    return offset;
  }
  size_t bytes() const { return bytes_; }

  Status allocate(const char* operation, const Context& context, GlobalMemory& operands) {
    if (bytes_ == 0) return {};
    memory_ = context.allocate ? static_cast<char*>(context.allocate(bytes_)) : nullptr;
    operands.writes(memory_, bytes_, "the workspace");
    if (memory_ != nullptr) return {};
    return {StatusCode::kOutOfMemory,
            std::string(operation) + ": could not allocate " + std::to_string(bytes_) + " bytes of workspace"};
  }
  void* at(size_t offset) const { return memory_ + offset; }

 private:
  size_t bytes_ = 0;
  char* memory_ = nullptr;
};

}  // namespace LRK_TARGET
}  // namespace lrk
