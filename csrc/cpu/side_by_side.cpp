#include "lrk/side_by_side.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <vector>

namespace lrk {
namespace {

/// One thread's work memory: what the caller's allocator gave is handed out again to the next problem.
class ReusedMemory {
 public:
  ReusedMemory(const Context& context, std::mutex& mutex) : context_(context), mutex_(mutex) {}

  void* take(size_t bytes) {
    for (Block& block : blocks_)
      if (block.free && block.bytes >= bytes) return block.free = false, block.data;
    void* data = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);  // the allocator is one thread's
      data = context_.allocate(bytes);
    }
    if (data != nullptr) blocks_.push_back({data, bytes, false});
    return data;
  }
  void free_all() {
    for (Block& block : blocks_) block.free = true;
  }

 private:
  struct Block {
    void* data;
    size_t bytes;
    bool free;
  };
  const Context& context_;
  std::mutex& mutex_;
  std::vector<Block> blocks_;
};

}  // namespace

bool goes_side_by_side(int64_t count, int64_t multiply_adds) {
  constexpr int64_t kFewest = 4, kMostWork = 1 << 22;  // beyond, several threads on one problem serve as well
  return count >= kFewest && multiply_adds <= kMostWork;
}

Status run_side_by_side(int64_t count, const Context& context,
                        const std::function<Status(int64_t index, const Context& own)>& body) {
  constexpr int64_t kMostTasks = 128;
  const int64_t tasks = std::min(count, kMostTasks);
  if (tasks <= 0) return {};
  std::mutex mutex;
  Status first_failure;
  int64_t failed = std::numeric_limits<int64_t>::max();
  context.parallel_for(tasks, [&](int64_t begin, int64_t end) {
    ReusedMemory memory(context, mutex);
    Context own;
    own.parallel_for = [](int64_t all, const std::function<void(int64_t, int64_t)>& inner) { inner(0, all); };
    own.allocate = [&memory](size_t bytes) { return memory.take(bytes); };
    for (int64_t task = begin; task < end; ++task)
      for (int64_t index = task; index < count; index += tasks) {
        Status status = body(index, own);
        memory.free_all();
        if (status.ok()) continue;
        const std::lock_guard<std::mutex> lock(mutex);
        if (index < failed) failed = index, first_failure = std::move(status);
      }
  });
  return first_failure;
}

}  // namespace lrk
