// Names the global memory that kernels may touch. An operation lists its operands once; while the object lives, the
// launches of its thread may touch them and nothing else, which the emulator's checked mode enforces. Elsewhere it is
// nothing.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "device/target.cuh"
#include "lrk/types.h"

#if defined(LRK_EMULATE)
#include "device/emulator/launch.h"
#endif

namespace lrk {
inline namespace LRK_TARGET {

class GlobalMemory {
 public:
  GlobalMemory() = default;
  GlobalMemory(const GlobalMemory&) = delete;
  GlobalMemory& operator=(const GlobalMemory&) = delete;

#if defined(LRK_EMULATE)
  GlobalMemory& reads(const void* data, size_t bytes, const char* name = "an operand") {
    return add({static_cast<const char*>(data), bytes, 1, 0, false, name});
  }
  GlobalMemory& writes(void* data, size_t bytes, const char* name = "an operand") {
    return add({static_cast<const char*>(data), bytes, 1, 0, true, name});
  }
  GlobalMemory& reads(const MatrixView& view, const char* name = "an operand") {
    return add(span_of(view, false, name));
  }
  GlobalMemory& writes(const MutableMatrixView& view, const char* name = "an operand") {
    return add(span_of(view, true, name));
  }

 private:
  GlobalMemory& add(emulator::MemorySpan span) {
    if (span.begin != nullptr) spans_.add(std::move(span));
    return *this;
  }

  /// The lines of a matrix with contiguous rows or columns; the bytes between them are not part of it. Of other layouts
  /// everything from the first element to the last.
  static emulator::MemorySpan span_of(const MatrixView& view, bool writable, const char* name) {
    emulator::MemorySpan span{static_cast<const char*>(view.data), 0, 0, 0, writable, name};
    if (view.rows == 0 || view.cols == 0) return span;
    const size_t element = size_of(view.dtype);
    const int64_t rows = view.rows - 1, cols = view.cols - 1;  // the last ones
    const int64_t row_stride = view.row_stride, col_stride = view.col_stride;
    const auto line = [&](int64_t count) { return size_t(count + 1) * element; };
    if (col_stride == 1 || cols == 0)
      span.line_bytes = line(cols), span.lines = size_t(rows + 1), span.stride = size_t(row_stride) * element;
    else if (row_stride == 1 || rows == 0)
      span.line_bytes = line(rows), span.lines = size_t(cols + 1), span.stride = size_t(col_stride) * element;
    else
      span.line_bytes = line(rows * row_stride + cols * col_stride), span.lines = 1;
    return span;
  }

  emulator::RegisteredSpans spans_;
#else
  GlobalMemory& reads(const void*, size_t, const char* = "") { return *this; }
  GlobalMemory& writes(void*, size_t, const char* = "") { return *this; }
  GlobalMemory& reads(const MatrixView&, const char* = "") { return *this; }
  GlobalMemory& writes(const MutableMatrixView&, const char* = "") { return *this; }
#endif
};

}  // namespace LRK_TARGET
}  // namespace lrk
