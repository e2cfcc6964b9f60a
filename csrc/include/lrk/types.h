// The words every family speaks: data types, strided views, status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace lrk {

enum class DType : int8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr size_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat64: return "float64";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat16: return "float16";
  }
  return "unknown";
}

/// A strided 2-D view of memory the caller owns; strides count elements, 0 broadcasts. `data == nullptr` and
/// `rows == 0 && cols == 0` means "this operand is absent".
struct MatrixView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0, cols = 0;
  int64_t row_stride = 0, col_stride = 0;

  bool present() const { return data != nullptr || rows != 0 || cols != 0; }
  MatrixView transposed() const { return {data, dtype, cols, rows, col_stride, row_stride}; }
};

/// A MatrixView that is written to.
struct MutableMatrixView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0, cols = 0;
  int64_t row_stride = 0, col_stride = 0;

  bool present() const { return data != nullptr || rows != 0 || cols != 0; }
  MutableMatrixView transposed() const { return {data, dtype, cols, rows, col_stride, row_stride}; }
  operator MatrixView() const { return {data, dtype, rows, cols, row_stride, col_stride}; }
};

/// Philox dropout over the row-major logical element index of the dropped matrix: element (i, j) of a matrix with
/// `cols` columns has index i * cols + j, whatever its strides. Kept elements are multiplied by 1 / (1 - probability).
/// `seed` points to one int64 in the memory of the device the kernel runs on, so a captured graph reads a fresh seed.
struct Dropout {
  double probability = 0.0;
  const int64_t* seed = nullptr;

  bool active() const { return probability > 0.0; }
};

enum class StatusCode : int { kOk = 0, kInvalidArgument, kUnsupported, kOutOfMemory, kDeviceError };

/// Every entry point returns one of these instead of throwing or exiting.
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::kOk;
  std::string message;

  bool ok() const { return code == StatusCode::kOk; }
  static Status invalid(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }
  static Status unsupported(std::string message) { return {StatusCode::kUnsupported, std::move(message)}; }
};

}  // namespace lrk
