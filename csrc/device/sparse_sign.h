// A row of the sparse sign matrix of python/lrkernels/reference/sketch.py, the same on CPU, GPU and emulator.
#pragma once

#include "device/philox.h"

namespace lrk {

constexpr int64_t kSparseSigns = 8, kSparseWords = 12;

/// The entries of row `row` of a sparse sign matrix of `size` columns; returns how many there are. All are
/// +-1/sqrt(count), and `negative` says which are below zero. Floyd's sampling without repetition.
LRK_HOST_DEVICE int64_t sparse_sign_row(uint64_t seed, int64_t row, int64_t size, int64_t (&columns)[kSparseSigns],
                                        bool (&negative)[kSparseSigns]) {
  constexpr uint64_t kBlocks = kSparseWords / 4;
  const int64_t count = size < kSparseSigns ? size : kSparseSigns;
  PhiloxBlock blocks[kBlocks];
  for (uint64_t b = 0; b < kBlocks; ++b) blocks[b] = philox4x32_10(seed, uint64_t(row) * kBlocks + b);
  for (int t = 0; t < int(kSparseSigns); ++t) {  // to a constant end, so that a device keeps the arrays in registers
    if (t >= count) break;
    const int64_t top = size - count + t;
    const uint64_t word = blocks[t / 4].word[t % 4];
    const int64_t pick = int64_t((word * uint64_t(top + 1)) >> 32);
    bool taken = false;
    for (int other = 0; other < t; ++other) taken = taken || columns[other] == pick;
    columns[t] = taken ? top : pick;
    negative[t] = (blocks[2].word[0] >> t) & 1;
  }
  return count;
}

}  // namespace lrk
