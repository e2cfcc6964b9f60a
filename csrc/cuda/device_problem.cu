// Asks the driver for one of this library's kernels on a device: there is code for it, or there is not.
#include "lrk/cuda_device.h"

#include "device/launch.cuh"

#if !defined(LRK_EMULATE)

#include <map>
#include <mutex>

namespace lrk {
namespace {

/// Compiled for the same architectures as every other kernel.
__global__ void probe_kernel() {}

std::string ask(int device) {
  const DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return device_status(guard.error(), "cudaSetDevice").message;
  cudaFuncAttributes attributes = {};
  return device_status(cudaFuncGetAttributes(&attributes, probe_kernel), "cudaFuncGetAttributes").message;
}

}  // namespace

std::string cuda_device_problem(int device) {
  static std::mutex mutex;
  static std::map<int, std::string> answers;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = answers.find(device);
  return known != answers.end() ? known->second : answers.emplace(device, ask(device)).first->second;
}

}  // namespace lrk

#endif
