#include "thread_pool.h"

#include <algorithm>
#include <chrono>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lrk::bench {
namespace {

// Long enough to catch the next parallel_for of the same call without a system call.
constexpr std::chrono::microseconds kSpin{100};

thread_local bool inside_body = false;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

/// Spins for a while; whether `done` came true.
template <class Done>
bool spin_until(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int threads) {
  for (int index = 1; index < threads; ++index) workers_.emplace_back([this, index] { work(index); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_part(int index) const {
  const int64_t begin = tasks_ * index / threads(), end = tasks_ * (index + 1) / threads();
  inside_body = true;
  if (begin < end) (*body_)(begin, end);
  inside_body = false;
}

void ThreadPool::work(int index) {
  uint64_t seen = 0;
  while (true) {
    const auto woken = [&] { return round_.load(std::memory_order_acquire) != seen || stopping_.load(); };
    if (!spin_until(woken)) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, woken);
    }
    if (stopping_.load()) return;
    seen = round_.load(std::memory_order_acquire);
    run_part(index);
    running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void ThreadPool::parallel_for(int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
  if (tasks <= 0) return;
  if (tasks == 1 || workers_.empty() || inside_body) {
    body(0, tasks);
    return;
  }
  tasks_ = tasks, body_ = &body;
  running_.store(int(workers_.size()), std::memory_order_relaxed);
  {
    std::lock_guard lock(mutex_);
    round_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  run_part(0);
  while (!spin_until([&] { return running_.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
}

}  // namespace lrk::bench
