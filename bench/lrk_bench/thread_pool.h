// The threads behind Context::parallel_for: a fixed team that splits [0, tasks) evenly, as torch's does.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lrk::bench {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  /// Calls body(begin, end) over a partition of [0, tasks), one part a thread; returns when all are done. A call from
  /// inside a body runs on the calling thread alone.
  void parallel_for(int64_t tasks, const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  void work(int index);
  void run_part(int index) const;

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> round_{0};  // counts parallel_for calls; a worker runs when it moves
  std::atomic<int> running_{0};
  std::atomic<bool> stopping_{false};
  int64_t tasks_ = 0;
  const std::function<void(int64_t, int64_t)>* body_ = nullptr;
};

/// The CPUs this process may run on.
int available_cpus();

}  // namespace lrk::bench
