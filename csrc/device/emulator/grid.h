// Runs a grid: blocks are independent, so they are spread over operating-system threads, each block on one of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "device/emulator/block.h"

namespace lrk::emulator {

/// What the emulated device says of itself: an sm_80 with few multiprocessors, so that small problems already
/// take the paths that large ones take on a GPU.
constexpr int kMultiprocessors = 4;
constexpr size_t kMaxSharedBytes = 163 << 10;
constexpr size_t kMaxThreads = 1024;

/// Calls body(closure) for every thread of every block. Returns an empty string, or the first fault.
inline std::string run_grid(Dim3 grid, Dim3 block, size_t shared_bytes, Block::Body body, const void* closure) {
  if (grid.count() == 0 || block.count() == 0 || block.count() > kMaxThreads || block.count() % kWarpSize != 0)
    return "invalid launch: " + std::to_string(grid.count()) + " blocks of " + std::to_string(block.count()) +
           " threads";
  if (grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu) return "invalid launch: the grid is too large";
  if (shared_bytes > kMaxSharedBytes)
    return "invalid launch: " + std::to_string(shared_bytes) + " bytes of shared memory";

  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::string failure;
  const auto work = [&] {
    Block running(grid, block, shared_bytes, body, closure);
    for (size_t i; (i = next++) < grid.count();) {
      const Dim3 index(unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y));
      const std::string message = running.run(index);
      if (message.empty()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (failure.empty()) failure = message;
      next = grid.count();
    }
  };
  const size_t workers = std::min<size_t>(grid.count(), std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < workers; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  return failure;
}

}  // namespace lrk::emulator
