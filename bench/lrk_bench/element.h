// Numbers of every dtype, one at a time, by plain bit arithmetic: fills operands and reads results for the reference.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lrk/types.h"

namespace lrk::bench {

double load(DType dtype, const void* data, int64_t index);
/// Rounds to nearest even.
void store(DType dtype, void* data, int64_t index, double value);

/// Half the distance from 1 to the next number: the relative error of one rounding.
double unit_roundoff(DType dtype);

/// "fp32", "fp64", "bf16", "fp16": the words of the command line.
const char* short_name(DType dtype);

/// Element (row, col) of a view of host memory.
inline double element(const MatrixView& view, int64_t row, int64_t col) {
  return load(view.dtype, view.data, row * view.row_stride + col * view.col_stride);
}

/// Row `row` of a view of host memory.
inline std::vector<double> row_of(const MatrixView& view, int64_t row) {
  std::vector<double> line(static_cast<size_t>(view.cols));
  for (int64_t col = 0; col < view.cols; ++col) line[static_cast<size_t>(col)] = element(view, row, col);
  return line;
}

}  // namespace lrk::bench
