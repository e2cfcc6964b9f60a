// The only way a kernel is started: on a stream, on its device, with its shared-memory limit raised when needed.
#pragma once

#include <string>
#include <tuple>

#include "device/target.cuh"
#include "lrk/context.h"
#include "lrk/types.h"

#if defined(LRK_EMULATE)
#include "device/emulator/launch.h"
#else
#include <map>
#include <mutex>
#include <utility>
#endif

namespace lrk {
inline namespace LRK_TARGET {

struct LaunchConfig {
  dim3 grid, block;
  size_t shared_bytes = 0;
  void* stream = nullptr;
  int device = 0;
  /// All blocks are alive at once, so that one may wait for another; the launch fails when they do not fit.
  bool cooperative = false;
  /// Programmatic dependent launch (sm_90): may start before the launch before it on the stream has finished, and must
  /// wait by griddepcontrol.wait before it touches what that one writes.
  bool programmatic = false;

  LaunchConfig(dim3 grid_, dim3 block_, size_t shared_bytes_, const Context& context)
      : grid(grid_), block(block_), shared_bytes(shared_bytes_), stream(context.stream), device(context.device) {}
};

#if !defined(LRK_EMULATE)
inline Status device_status(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // a failed call must not be reported again by somebody else's check
  return {StatusCode::kDeviceError, std::string(what) + ": " + cudaGetErrorString(error)};
}

/// Makes `device` current and puts the caller's back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&previous_);
    if (error_ == cudaSuccess && previous_ != device) error_ = cudaSetDevice(device), changed_ = error_ == cudaSuccess;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

/// Raises a kernel's dynamic shared memory limit once per kernel and device (the current one).
inline cudaError_t allow_shared_bytes(const void* kernel, int device, size_t bytes) {
  constexpr size_t kAlwaysAllowed = 48 << 10;
  if (bytes <= kAlwaysAllowed) return cudaSuccess;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  size_t& limit = allowed[{kernel, device}];
  if (bytes <= limit) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  if (error == cudaSuccess) limit = bytes;
  return error;
}

/// Whether the code that runs has griddepcontrol.wait: what was compiled from sm_80's PTX does not wait, on any device,
/// and so must not start early.
inline bool was_compiled_for_sm90(const void* kernel) {
  cudaFuncAttributes attributes = {};
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.ptxVersion >= 90;
}
#endif

/// Starts kernel(arguments...) and reports what the launch itself said; the emulator runs it to its end.
template <class... Parameters, class... Arguments>
Status launch(void (*kernel)(Parameters...), const LaunchConfig& config, const Arguments&... arguments) {
#if defined(LRK_EMULATE)
  const std::tuple<Parameters...> parameters(arguments...);
  const auto call = [kernel, &parameters] { std::apply(kernel, parameters); };
  using Call = decltype(call);
  emulator::Launch launch;
  launch.kernel = reinterpret_cast<const void*>(kernel);
  launch.grid = config.grid, launch.block = config.block, launch.shared_bytes = config.shared_bytes;
  launch.cooperative = config.cooperative, launch.programmatic = config.programmatic, launch.stream = config.stream;
  launch.body = [](const void* closure) { (*static_cast<const Call*>(closure))(); };
  launch.closure = &call;
  const auto parameter = [](const void* begin, size_t bytes) {
    return emulator::MemorySpan{static_cast<const char*>(begin), bytes, 1, 0, false, "a kernel parameter"};
  };
  launch.parameters = {parameter(&call, sizeof(call)), parameter(&parameters, sizeof(parameters))};
  const std::string failure = emulator::run(launch);
  if (failure.empty()) return {};
  return {StatusCode::kDeviceError, "emulator: " + failure};
#else
  const DeviceGuard guard(config.device);
  if (guard.error() != cudaSuccess) return device_status(guard.error(), "cudaSetDevice");
  const cudaError_t allowed =
      allow_shared_bytes(reinterpret_cast<const void*>(kernel), config.device, config.shared_bytes);
  if (allowed != cudaSuccess) return device_status(allowed, "cudaFuncSetAttribute");
  cudaLaunchConfig_t native = {};
  native.gridDim = config.grid, native.blockDim = config.block;
  native.dynamicSmemBytes = config.shared_bytes;
  native.stream = static_cast<cudaStream_t>(config.stream);
  cudaLaunchAttribute attributes[2] = {};
  native.attrs = attributes;
  if (config.cooperative) {
    cudaLaunchAttribute& attribute = attributes[native.numAttrs++];
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  if (config.programmatic && was_compiled_for_sm90(reinterpret_cast<const void*>(kernel))) {
    cudaLaunchAttribute& attribute = attributes[native.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  return device_status(cudaLaunchKernelEx(&native, kernel, Parameters(arguments)...), "kernel launch");
#endif
}

/// How many blocks a grid of one dimension may have.
inline Status check_grid(const char* operation, int64_t blocks) {
  if (blocks <= 0x7fffffff) return {};
  return Status::unsupported(std::string(operation) + ": the problem needs more blocks than a grid has");
}

/// Streaming multiprocessors of a device; 0 when there is no such device.
inline int multiprocessors(int device) {
#if defined(LRK_EMULATE)
  return device >= 0 ? emulator::kMultiprocessors : 0;
#else
  int count = 0;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
#endif
}

/// The dynamic shared memory that a block may ask for; 0 when there is no such device.
inline size_t shared_bytes_of_block(int device) {
#if defined(LRK_EMULATE)
  return device >= 0 ? emulator::kMaxSharedBytes : 0;
#else
  int bytes = 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return size_t(bytes);
#endif
}

}  // namespace LRK_TARGET
}  // namespace lrk
