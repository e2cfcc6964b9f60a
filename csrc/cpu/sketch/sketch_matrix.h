// The sketching matrices of python/lrkernels/reference/sketch.py, which says which word of Philox makes which entry.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/philox.h"
#include "lrk/sketch.h"

namespace lrk::cpu {

constexpr int64_t kSparseSigns = 8, kSparseWords = 12;

/// The entries of row `row` of a sparse sign matrix of `size` columns; returns how many there are. All are
/// +-1/sqrt(count), and `negative` says which are below zero.
inline int64_t sparse_sign_row(uint64_t seed, int64_t row, int64_t size, int64_t (&columns)[kSparseSigns],
                               bool (&negative)[kSparseSigns]) {
  const int64_t count = std::min(kSparseSigns, size);
  PhiloxBlock blocks[kSparseWords / 4];
  constexpr uint64_t kBlocks = kSparseWords / 4;
  for (uint64_t b = 0; b < kBlocks; ++b) blocks[b] = philox4x32_10(seed, uint64_t(row) * kBlocks + b);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t top = size - count + t;
    const uint64_t word = blocks[t / 4].word[t % 4];
    const int64_t pick = int64_t((word * uint64_t(top + 1)) >> 32);
    const bool taken = std::find(columns, columns + t, pick) != columns + t;
    columns[t] = taken ? top : pick;
    negative[t] = (blocks[2].word[0] >> t) & 1;
  }
  return count;
}

template <class T>
void fill_sketch_matrix(const SketchMatrixArgs& args, const Context& context);

}  // namespace lrk::cpu
