// Scratch memory for Context::allocate: grows while a call is new, is one block from then on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace lrk::bench {

/// `Memory` has allocate(bytes) (nullptr when there is none left) and release(pointer).
template <class Memory>
class Arena {
 public:
  explicit Arena(Memory memory) : memory_(std::move(memory)) {}
  ~Arena() { release(); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// 256-byte aligned, alive until the next start_call().
  void* allocate(size_t bytes) {
    bytes = (std::max<size_t>(bytes, 1) + 255) / 256 * 256;
    wanted_ += bytes;
    if (blocks_.empty() || used_ + bytes > blocks_.back().bytes) {
      void* block = memory_.allocate(bytes);
      if (block == nullptr) return nullptr;
      blocks_.push_back({static_cast<char*>(block), bytes});
      used_ = 0;
    }
    char* piece = blocks_.back().data + used_;
    used_ += bytes;
    return piece;
  }

  /// Everything handed out may be handed out again. Several blocks become one that holds what the last call wanted.
  void start_call() {
    if (blocks_.size() > 1) {
      const size_t bytes = wanted_;
      release();
      if (void* block = memory_.allocate(bytes)) blocks_.push_back({static_cast<char*>(block), bytes});
    }
    used_ = wanted_ = 0;
  }

 private:
  struct Block {
    char* data;
    size_t bytes;
  };

  void release() {
    for (const Block& block : blocks_) memory_.release(block.data);
    blocks_.clear();
  }

  Memory memory_;
  std::vector<Block> blocks_;
  size_t used_ = 0, wanted_ = 0;
};

}  // namespace lrk::bench
