// Page-backed memory of the emulator: fiber stacks with a guard page below each, and shared memory between two.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <new>

#include "device/emulator/fiber.h"

namespace lrk::emulator {

inline size_t page_bytes() {
  static const size_t bytes = size_t(sysconf(_SC_PAGESIZE));
  return bytes;
}

inline size_t round_up_to_page(size_t bytes) { return (bytes + page_bytes() - 1) / page_bytes() * page_bytes(); }

/// `count` areas of `bytes` (rounded up to pages) each, with an inaccessible page before, between and after them.
class GuardedPages {
 public:
  GuardedPages(size_t count, size_t bytes) : area_(round_up_to_page(bytes)), step_(area_ + page_bytes()) {
    size_ = count * step_ + page_bytes();
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(memory);
    for (size_t i = 0; i <= count; ++i) {
      if (mprotect(base_ + i * step_, page_bytes(), PROT_NONE) == 0) continue;
      munmap(base_, size_);  // each guard page is a mapping, of which a process may have 65530
      throw std::bad_alloc();
    }
  }
  ~GuardedPages() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(base_, size_);  // frames that fibers never returned from
#endif
    munmap(base_, size_);
  }
  GuardedPages(const GuardedPages&) = delete;
  GuardedPages& operator=(const GuardedPages&) = delete;

  StackSpan area(size_t index) const { return {base_ + page_bytes() + index * step_, area_}; }

 private:
  size_t area_, step_, size_ = 0;
  char* base_ = nullptr;
};

/// A block's dynamic shared memory. Starts as 0xff bytes (a NaN in every float type), so reading what nobody wrote
/// shows in the result; the unused rest of the last page keeps that pattern, so writing past the end is found.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) : bytes_(bytes), pages_(1, bytes == 0 ? 1 : bytes) {}

  char* data() const { return pages_.area(0).bottom; }
  size_t bytes() const { return bytes_; }
  void poison() { memset(data(), 0xff, pages_.area(0).bytes); }
  bool tail_is_intact() const {
    for (size_t i = bytes_; i < pages_.area(0).bytes; ++i)
      if (static_cast<unsigned char>(data()[i]) != 0xff) return false;
    return true;
  }

 private:
  size_t bytes_;
  GuardedPages pages_;
};

}  // namespace lrk::emulator
