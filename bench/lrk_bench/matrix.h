// A matrix on the device with its copy on the host: operands for the reference, results after a download.
#pragma once

#include <vector>

#include "device.h"

namespace lrk::bench {

class Matrix {
 public:
  Matrix(Device& device, int64_t rows, int64_t cols, DType dtype);
  ~Matrix() { device_.release(data_); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  MutableMatrixView view() const { return {data_, dtype_, rows_, cols_, cols_, 1}; }
  MatrixView host() const { return {host_.data(), dtype_, rows_, cols_, cols_, 1}; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  size_t bytes() const { return host_.size(); }

  /// Normal numbers of the given standard deviation, a function of `seed` and the position alone.
  void fill(uint64_t seed, double deviation);
  /// NaN everywhere, so that an element nobody writes is seen.
  void poison();
  void download() { device_.download(host_.data(), data_, host_.size()); }

 private:
  Device& device_;
  int64_t rows_, cols_;
  DType dtype_;
  std::vector<char> host_;
  void* data_;
};

}  // namespace lrk::bench
