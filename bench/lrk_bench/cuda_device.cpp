// The only file of the benchmark that calls the CUDA runtime; without a toolkit it says so and nothing else.
#include "device.h"

#if LRK_BENCH_CUDA && __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>

#include <algorithm>
#include <new>

#include "arena.h"
#include "cublaslt.h"
#include "element.h"
#include "matrix.h"

namespace lrk::bench {
namespace {

struct CudaMemory {
  void* allocate(size_t bytes) {
    void* data = nullptr;
    return cudaMalloc(&data, bytes) == cudaSuccess ? data : nullptr;
  }
  void release(void* data) { (void)cudaFree(data); }  // waits for the kernels that use it
};

Status status_of(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return {};
  return {StatusCode::kDeviceError, std::string(what) + ": " + cudaGetErrorString(error)};
}

class CudaDevice : public Device {
 public:
  CudaDevice(const Backends& backends, const cudaDeviceProp& properties)
      : Device(backends), properties_(properties), arena_(CudaMemory{}) {
    (void)cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    (void)cudaEventCreate(&begin_);
    (void)cudaEventCreate(&end_);
    context_.stream = stream_;
    context_.device = 0;
    context_.allocate = [this](size_t bytes) { return arena_.allocate(bytes); };
  }
  ~CudaDevice() override {
    (void)cudaStreamSynchronize(stream_);
    release(flush_);
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
    (void)cudaStreamDestroy(stream_);
  }

  std::string description() const override {
    return std::string(properties_.name) + " (sm_" + std::to_string(properties_.major) +
           std::to_string(properties_.minor) + ", " + std::to_string(properties_.multiProcessorCount) +
           " multiprocessors)";
  }
  int threads() const override { return 0; }
  bool has_meaningful_time() const override { return true; }
  bool keeps_branch_wide() const override { return false; }

  void* allocate(size_t bytes) override {
    void* data = CudaMemory{}.allocate(std::max<size_t>(bytes, 1));
    if (data == nullptr) throw std::bad_alloc();
    return data;
  }
  void release(void* data) override { CudaMemory{}.release(data); }
  // The stream does not wait for the default one, so both wait for the copy here.
  void upload(void* to, const void* from, size_t bytes) override {
    (void)cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_);
    (void)cudaStreamSynchronize(stream_);
  }
  void download(void* to, const void* from, size_t bytes) override {
    (void)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_);
    (void)cudaStreamSynchronize(stream_);
  }
  Status copy(void* to, const void* from, size_t bytes) override {
    return status_of("cudaMemcpyAsync", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
  }

  const Context& context() const override { return context_; }
  void start_call() override { arena_.start_call(); }

  size_t cache_bytes() const override { return size_t(properties_.l2CacheSize); }
  void flush_caches() override {
    const size_t bytes = std::max<size_t>(2 * cache_bytes(), size_t(64) << 20);
    if (flush_ == nullptr) flush_ = allocate(bytes);
    (void)cudaMemsetAsync(flush_, 0, bytes, stream_);
  }

  std::pair<double, Status> time(const Call& call, int calls) override {
    Status status;
    // Enqueued behind whatever flush_caches() put there, so the launch itself is hidden by it.
    (void)cudaEventRecord(begin_, stream_);
    for (int i = 0; i < calls; ++i) {
      Status result = call();
      if (!result.ok() && status.ok()) status = std::move(result);
    }
    (void)cudaEventRecord(end_, stream_);
    Status finished = status_of("running on the GPU", cudaStreamSynchronize(stream_));
    if (status.ok()) status = std::move(finished);
    float milliseconds = 0;
    (void)cudaEventElapsedTime(&milliseconds, begin_, end_);
    return {double(milliseconds) * 1e3, status};
  }

  Peak measure_peak(DType dtype) override {
    Peak peak;
    const std::unique_ptr<CublasLt> library = open_cublaslt(*this, &peak.how);
    if (!library || dtype == DType::kFloat64) return peak;
    constexpr int64_t kExtent = 8192, kRandomRows = 128;
    // Random numbers, because constant ones draw less power and let the clock rise; a band of rows, repeated.
    Matrix random(*this, kRandomRows, kExtent, dtype);
    random.fill(1, 1);
    void* data[3];
    for (void*& each : data) {
      each = allocate(random.bytes() * (kExtent / kRandomRows));
      for (int64_t band = 0; band < kExtent / kRandomRows; ++band)
        (void)copy(static_cast<char*>(each) + size_t(band) * random.bytes(), random.view().data, random.bytes());
    }
    const auto matrix = [&](void* from) { return MutableMatrixView{from, dtype, kExtent, kExtent, kExtent, 1}; };
    const auto product = [&] { return library->gemm(matrix(data[0]), matrix(data[1]), 1, false, matrix(data[2])); };
    double best = 0;
    for (int turn = 0; turn < 12; ++turn) {
      const auto [microseconds, status] = time(product, 1);
      if (turn >= 2 && status.ok() && (best == 0 || microseconds < best)) best = microseconds;
    }
    for (void* each : data) release(each);
    if (best > 0) peak.gflops = 2.0 * kExtent * kExtent * kExtent / best * 1e-3;
    peak.how = std::string("cuBLASLt ") + short_name(dtype) + " GEMM of 8192";
    return peak;
  }

 private:
  cudaDeviceProp properties_;
  Arena<CudaMemory> arena_;
  Context context_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  void* flush_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(std::string* reason) {
  if (lowrank_cuda() == nullptr) {
    *reason = "this build has no CUDA kernels";
    return nullptr;
  }
  int devices = 0;
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices == 0) error = cudaErrorNoDevice;
  if (error == cudaSuccess) error = cudaSetDevice(0);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) {
    *reason = cudaGetErrorString(error);
    return nullptr;
  }
  return std::make_unique<CudaDevice>(Backends{*lowrank_cuda(), *orthogonal_cuda()}, properties);
}

}  // namespace lrk::bench

#else

namespace lrk::bench {

std::unique_ptr<Device> make_cuda_device(std::string* reason) {
  *reason = "lrk_bench was built without a CUDA toolkit";
  return nullptr;
}

}  // namespace lrk::bench

#endif
