#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

#include "arena.h"
#include "device.h"
#include "host_peak.h"
#include "lrk/build_info.h"
#include "thread_pool.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace lrk::bench {
namespace {

struct HostMemory {
  void* allocate(size_t bytes) { return std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096); }
  void release(void* data) { std::free(data); }
};

size_t last_level_cache_bytes() {
  constexpr size_t kAssumed = size_t(64) << 20;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const long level3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (level3 > 0) return size_t(level3);
#endif
  return kAssumed;
}

std::string cpu_model() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

class HostDevice : public Device {
 public:
  HostDevice(const Backends& backends, int threads, bool emulated)
      : Device(backends), pool_(threads), arena_(HostMemory{}), emulated_(emulated) {
    context_.parallel_for = [this](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
      pool_.parallel_for(tasks, body);
    };
    context_.allocate = [this](size_t bytes) { return arena_.allocate(bytes); };
  }
  ~HostDevice() override { release(flush_); }

  std::string description() const override {
    const std::string threads = std::to_string(pool_.threads()) + (pool_.threads() == 1 ? " thread" : " threads");
    if (emulated_) return "the CUDA kernels, emulated on the CPU with " + threads;
    return cpu_model() + ", " + cpu_isa() + ", " + threads;
  }
  int threads() const override { return pool_.threads(); }
  bool has_meaningful_time() const override { return !emulated_; }
  bool keeps_branch_wide() const override { return !emulated_; }

  void* allocate(size_t bytes) override {
    void* data = HostMemory{}.allocate(std::max<size_t>(bytes, 1));
    if (data == nullptr) throw std::bad_alloc();
    return data;
  }
  void release(void* data) override { HostMemory{}.release(data); }
  // Nothing may come from nowhere, but memcpy forbids null even for no bytes.
  void upload(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  Status copy(void* to, const void* from, size_t bytes) override {
    constexpr int64_t kPiece = 4 << 20;
    pool_.parallel_for((int64_t(bytes) + kPiece - 1) / kPiece, [&](int64_t begin, int64_t end) {
      const size_t first = size_t(begin * kPiece), last = std::min(bytes, size_t(end * kPiece));
      std::memcpy(static_cast<char*>(to) + first, static_cast<const char*>(from) + first, last - first);
    });
    return {};
  }

  const Context& context() const override { return context_; }
  void start_call() override { arena_.start_call(); }

  size_t cache_bytes() const override { return last_level_cache_bytes(); }
  void flush_caches() override {
    // Every thread touches a share, so that the caches private to its core are emptied too.
    constexpr int64_t kLine = 64;
    const int64_t lines = int64_t(2 * cache_bytes()) / kLine;
    if (flush_ == nullptr) {
      flush_ = static_cast<char*>(allocate(size_t(lines * kLine)));
      std::memset(flush_, 0, size_t(lines * kLine));
    }
    pool_.parallel_for(lines, [&](int64_t begin, int64_t end) {
      for (int64_t line = begin; line < end; ++line) {
        volatile char& byte = flush_[line * kLine];
        byte = char(byte + 1);
      }
    });
  }

  std::pair<double, Status> time(const Call& call, int calls) override {
    Status status;
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) {
      Status result = call();
      if (!result.ok() && status.ok()) status = std::move(result);
    }
    const auto end = std::chrono::steady_clock::now();
    return {std::chrono::duration<double, std::micro>(end - begin).count(), status};
  }

  Peak measure_peak(DType dtype) override { return measure_host_peak(dtype, pool_); }

 private:
  ThreadPool pool_;
  Arena<HostMemory> arena_;
  bool emulated_;
  Context context_;
  char* flush_ = nullptr;
};

}  // namespace

std::vector<std::string> Device::kernel_names() const {
  std::vector<std::string> all = lowrank().kernel_names();
  for (std::string& name : orthogonal().kernel_names()) all.push_back(std::move(name));
  return all;
}

std::unique_ptr<Device> make_host_device(const Backends& backends, int threads, bool emulated) {
  return std::make_unique<HostDevice>(backends, threads, emulated);
}

std::unique_ptr<Device> make_device(const std::string& name, int threads, std::string* reason) {
  if (name == "cpu") return make_host_device({lowrank_cpu(), orthogonal_cpu()}, threads, false);
  if (name == "cuda") return make_cuda_device(reason);
  if (lowrank_cuda_emulated() != nullptr)
    return make_host_device({*lowrank_cuda_emulated(), *orthogonal_cuda_emulated()}, threads, true);
  *reason = "this build has no emulated CUDA kernels (configure with -DLRK_EMULATOR=ON)";
  return nullptr;
}

std::vector<DeviceState> list_devices(int threads) {
  std::vector<DeviceState> states;
  for (const char* name : {"cpu", "cuda", "cuda_emulated"}) {
    DeviceState state{name, false, ""};
    if (const std::unique_ptr<Device> device = make_device(name, threads, &state.description)) {
      state.available = true;
      state.description = device->description();
    }
    states.push_back(std::move(state));
  }
  return states;
}

}  // namespace lrk::bench
