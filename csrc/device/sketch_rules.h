// What the sketch family decides alike on CPU and CUDA.
#pragma once

#include "device/philox.h"

namespace lrk {

/// A pivot (squared, of unit columns) below which a float64 Gram matrix is not trusted.
constexpr double kLeastPivot = 1e-11;
/// Of a column's length: what is left of it beside the columns before, if it depends on them.
constexpr double kDependent = 1e-13;

/// Whether a range finder's random start is Gaussian. Sparse signs lose a dimension now and then (a column may have
/// none), which is one of a basis that has many more columns to choose from; where that is not so, or costs nothing,
/// the start is Gaussian.
LRK_HOST_DEVICE bool starts_gaussian(int64_t cols, int64_t size) { return cols <= 64 || 2 * size > cols; }

/// A power of two by which columns of a random start are short, and so no product with them is larger than the matrix's
/// norm: their lengths are about sqrt(cols / size). What a basis is made from may have any length.
LRK_HOST_DEVICE double short_start(int64_t cols, int64_t size) {
  double scale = 0.25;
  for (int64_t covered = size; covered < cols; covered *= 4) scale *= 0.5;
  return scale;
}

/// The signs of rows 32 * `rows_of_32` on in the random column that takes the place of column `col`, which depends on
/// those before it: a bit a row. What an `attempt` chooses badly the next one chooses anew.
LRK_HOST_DEVICE uint32_t replacement_signs(uint64_t attempt, int64_t rows_of_32, int64_t col, int64_t rows) {
  constexpr uint64_t kSeed = 0x6c726b2073715231u;  // any number
  return philox_element(kSeed + attempt, uint64_t(col * ((rows + 31) / 32) + rows_of_32));
}

}  // namespace lrk
