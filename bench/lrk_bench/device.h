// Where a benchmark runs: memory, threads or stream, a clock, and caches to empty. One class a kind of device, so that
// everything else is written once.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lrk/lowrank.h"
#include "lrk/orthogonal.h"

namespace lrk::bench {

/// What a device can do at most, measured here.
struct Peak {
  double gflops = 0;  // 0: could not be measured
  std::string how;    // "avx512 fp32 FMA", "cuBLASLt bf16 GEMM 8192"
};

using Call = std::function<Status()>;

/// The tables of one kind of device.
struct Backends {
  const LowRankBackend& lowrank;
  const OrthogonalBackend& orthogonal;
};

class Device {
 public:
  explicit Device(const Backends& backends) : backends_(backends) {}
  virtual ~Device() = default;

  const LowRankBackend& lowrank() const { return backends_.lowrank; }
  const OrthogonalBackend& orthogonal() const { return backends_.orthogonal; }
  std::string name() const { return backends_.lowrank.name; }
  std::vector<std::string> kernel_names() const;
  /// "Intel Xeon ..., 2 threads", "NVIDIA H200".
  virtual std::string description() const = 0;
  virtual int threads() const = 0;
  /// False on the emulator, whose times say nothing about a GPU.
  virtual bool has_meaningful_time() const = 0;
  /// Where the rank's product is kept in float whatever the factors are (as the torch op does).
  virtual bool keeps_branch_wide() const = 0;

  /// Device memory; throws std::bad_alloc when there is none left.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* data) = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  /// Within the device, as fast as it can; asynchronous where the device is.
  virtual Status copy(void* to, const void* from, size_t bytes) = 0;

  virtual const Context& context() const = 0;
  /// Scratch memory of the last call may be used again.
  virtual void start_call() = 0;

  /// The last-level cache.
  virtual size_t cache_bytes() const = 0;
  /// Evicts it, by touching twice its size.
  virtual void flush_caches() = 0;
  /// Microseconds that `calls` calls in a row took. The status is the first that was not ok.
  virtual std::pair<double, Status> time(const Call& call, int calls) = 0;
  virtual Peak measure_peak(DType dtype) = 0;

 private:
  Backends backends_;
};

/// A CPU backend, or the emulated CUDA kernels: any table of functions on host memory.
std::unique_ptr<Device> make_host_device(const Backends& backends, int threads, bool emulated);

/// A GPU; nullptr and a reason where there is none, no driver, or no CUDA in this build.
std::unique_ptr<Device> make_cuda_device(std::string* reason);

/// "cpu", "cuda", "cuda_emulated" and why each can or cannot be used here.
struct DeviceState {
  std::string name;
  bool available = false;
  std::string description;  // or why it is not available
};
std::vector<DeviceState> list_devices(int threads);
/// nullptr and a reason when the device is not available.
std::unique_ptr<Device> make_device(const std::string& name, int threads, std::string* reason);

}  // namespace lrk::bench
