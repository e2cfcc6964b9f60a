// What the C++ tests of device kernels share: strided matrices of every dtype on a backend's device (stray accesses are
// found), workspaces, and the rounding bound a result must meet.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "device/philox.h"
#include "lrk/lowrank.h"
#if __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>
#define LRK_TEST_HAS_CUDA_RUNTIME 1
#endif

namespace lrk::testing {

inline int failures = 0, checks = 0;

inline void expect(bool condition, const std::string& what) {
  ++checks;
  if (condition) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

// --- Values and dtypes, written independently of the kernels' own conversions.

inline double unit(DType dtype) {
  return dtype == DType::kFloat32 ? 0x1p-24 : dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-8;
}

inline double decode(DType dtype, const void* data, int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  if (dtype == DType::kBFloat16) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

/// Truncates a value that needs few bits (the generator makes only such).
inline void encode(DType dtype, void* data, int64_t index, double value) {
  const float narrow = float(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, 4);
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[index] = narrow;
  } else if (dtype == DType::kBFloat16) {
    static_cast<uint16_t*>(data)[index] = uint16_t(bits >> 16);
  } else {
    const int exponent = int(bits >> 23 & 255) - 127 + 15;
    static_cast<uint16_t*>(data)[index] =
        uint16_t((bits >> 16 & 0x8000) | (exponent <= 0 ? 0 : unsigned(exponent) << 10 | (bits >> 13 & 1023)));
  }
}

struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed) {}
  uint64_t bits() {
    state += 0x9E3779B97F4A7C15ull;
    uint64_t z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
  }
  double value() { return double(int64_t(bits() % 2001) - 1000) / 700.0; }
  bool chance(int percent) { return int(bits() % 100) < percent; }
};

// --- Where a backend's memory lives.

struct Device {
  const LowRankBackend* backend = nullptr;
  bool gpu = false;
};

/// Bytes on the device with a host copy. In the emulator both are the same pages, the last byte before a guard page.
class Buffer {
 public:
  Buffer(const Device& device, size_t bytes) : gpu_(device.gpu), bytes_((bytes + 15) / 16 * 16) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    mapped_ = (bytes_ + page - 1) / page * page + page;
    map_ = static_cast<char*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(map_ + mapped_ - page, page, PROT_NONE);
    host_ = map_ + mapped_ - page - bytes_;
    std::memset(host_, 0xff, bytes_);
    device_ = host_;
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
    if (gpu_ && cudaMalloc(&device_, bytes_ + 16) != cudaSuccess) std::abort();
#endif
  }
  ~Buffer() {
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
    if (gpu_) cudaFree(device_);
#endif
    munmap(map_, mapped_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  char* host() { return host_; }
  char* device() { return static_cast<char*>(device_); }
  void upload() {
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
    if (gpu_ && cudaMemcpy(device_, host_, bytes_, cudaMemcpyHostToDevice) != cudaSuccess) std::abort();
#else
    (void)gpu_;
#endif
  }
  void download() {
#if defined(LRK_TEST_HAS_CUDA_RUNTIME)
    if (gpu_ && cudaMemcpy(host_, device_, bytes_, cudaMemcpyDeviceToHost) != cudaSuccess) std::abort();
#endif
  }
  size_t bytes() const { return bytes_; }

 private:
  bool gpu_;
  size_t bytes_, mapped_ = 0;
  char *map_ = nullptr, *host_ = nullptr;
  void* device_ = nullptr;
};

/// How a matrix lies in memory: elements skipped before it, elements added to each line, lines along rows or columns.
struct Layout {
  int offset = 0, padding = 0;
  bool transposed = false;
};

/// A strided matrix with random values (or untouched 0xff bytes for an output).
class Matrix {
 public:
  Matrix(const Device& device, Random& random, DType dtype, int64_t rows, int64_t cols, Layout layout = {},
         bool filled = true) {
    const int64_t line = (layout.transposed ? rows : cols) + layout.padding;
    const int64_t lines = layout.transposed ? cols : rows, count = lines > 0 ? lines * line - layout.padding : 0;
    offset_ = size_t(layout.offset) * size_of(dtype);
    buffer_ = std::make_unique<Buffer>(device, offset_ + size_t(std::max<int64_t>(count, 1)) * size_of(dtype));
    view_.dtype = dtype, view_.rows = rows, view_.cols = cols;
    view_.row_stride = layout.transposed ? 1 : line, view_.col_stride = layout.transposed ? line : 1;
    view_.data = buffer_->device() + offset_;
    if (filled)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j)
          encode(dtype, buffer_->host() + offset_, i * view_.row_stride + j * view_.col_stride, random.value());
    buffer_->upload();
    before_.assign(buffer_->host(), buffer_->host() + buffer_->bytes());
    decode_values();
  }

  MutableMatrixView view() const { return view_; }
  double at(int64_t i, int64_t j) const { return values_[size_t(i * view_.cols + j)]; }
  /// Fetches results; true when no byte outside the matrix changed.
  bool download() {
    buffer_->download();
    decode_values();
    std::vector<char> inside(buffer_->bytes(), 0);
    const size_t size = size_of(view_.dtype);
    for (int64_t i = 0; i < view_.rows; ++i)
      for (int64_t j = 0; j < view_.cols; ++j)
        std::memset(&inside[offset_ + size_t(i * view_.row_stride + j * view_.col_stride) * size], 1, size);
    for (size_t i = 0; i < inside.size(); ++i)
      if (!inside[i] && buffer_->host()[i] != before_[i]) return false;
    return true;
  }
  const char* bytes() const { return buffer_->host(); }
  size_t byte_count() const { return buffer_->bytes(); }

 private:
  void decode_values() {
    values_.clear();
    for (int64_t i = 0; i < view_.rows; ++i)
      for (int64_t j = 0; j < view_.cols; ++j)
        values_.push_back(decode(view_.dtype, buffer_->host() + offset_, i * view_.row_stride + j * view_.col_stride));
  }

  std::unique_ptr<Buffer> buffer_;
  std::vector<char> before_;
  std::vector<double> values_;  // row-major
  MutableMatrixView view_;
  size_t offset_ = 0;
};

/// A context whose workspace lives as long as it does.
struct Workspaces {
  const Device& device;
  std::vector<std::unique_ptr<Buffer>> buffers;
  size_t bytes = 0;
  Context context;

  explicit Workspaces(const Device& on) : device(on) {
    context.allocate = [this](size_t size) -> void* {
      bytes += size;
      buffers.push_back(std::make_unique<Buffer>(device, (size + 255) / 256 * 256));
      return buffers.back()->device();
    };
  }
};

struct Seed {
  std::unique_ptr<Buffer> buffer;
  int64_t value = 0x1234567890abcdefll;
  explicit Seed(const Device& device) : buffer(std::make_unique<Buffer>(device, 8)) {
    std::memcpy(buffer->host(), &value, 8);
    buffer->upload();
  }
  const int64_t* pointer() const { return reinterpret_cast<const int64_t*>(buffer->device()); }
  double factor(double probability, int64_t index) const {
    if (probability <= 0.0) return 1.0;
    if (probability >= 1.0) return 0.0;
    return philox_element(uint64_t(value), uint64_t(index)) >= dropout_threshold(probability)
               ? dropout_scale(probability)
               : 0.0;
  }
};

/// Checks one element: rounding of the result, of the summation, and of factors that were packed to 16 bits.
inline bool close(double got, double want, DType dtype, double magnitude, int64_t terms, double packing) {
  const double bound = unit(dtype) * 1.001 * std::fabs(want) + magnitude * (double(terms + 8) * 0x1p-24 + packing) +
                       (dtype == DType::kFloat16 ? 0x1p-24 : 1e-30);
  return std::fabs(got - want) <= bound;
}

}  // namespace lrk::testing
