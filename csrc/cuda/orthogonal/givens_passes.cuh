// A list of Givens rounds as passes: rounds that follow each other and share a set of closed groups of columns, so that
// one thread takes a group through all of them in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "device/target.cuh"
#include "lrk/orthogonal.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kMostRounds = 4;  // of a pass: groups of 16 columns

/// Round k has stride unit << exponent[k], the exponents of a pass are distinct. With column i = q unit + r, it pairs
/// the columns whose q differ in bit exponent[k]: a group is the columns that differ in those bits of q alone.
struct GivensPass {
  int32_t first_round = 0, rounds = 0;     // in the order of application
  int32_t unit = 1, groups = 0;            // the last ones may reach past the last column
  uint8_t exponent[kMostRounds] = {}, ascending[kMostRounds] = {};
};

/// What a launch is given, within the limit of kernel parameters.
struct GivensPasses {
  static constexpr int kMost = 128;
  int32_t count = 0;
  GivensPass pass[kMost];
};

/// The columns of a group: member m has bit k set when it is the second of round k's pairs.
struct GivensGroup {
  int q, r;

  __device__ __forceinline__ GivensGroup(const GivensPass& pass, int index) {
    q = index / pass.unit, r = index - q * pass.unit;
#pragma unroll
    for (int k = 0; k < kMostRounds; ++k) {
      if (k >= pass.rounds) break;
      const int low = q & ((1 << pass.ascending[k]) - 1);  // a zero goes in at every bit of the pass
      q = (q - low) * 2 + low;
    }
  }
};

inline int64_t round_of(const GivensRounds& rounds, int64_t index) {
  return rounds.inverse ? rounds.angles.rows - 1 - index : index;
}

/// Passes of at most `most_rounds` rounds for rows of `features` columns; rounds without a pair are in none.
inline std::vector<GivensPass> passes_of(const GivensRounds& rounds, int64_t features, int most_rounds) {
  std::vector<GivensPass> passes;
  const auto whole_exponent = [](int64_t larger, int64_t unit) {
    for (int e = 0; e < 31 && unit << e <= larger; ++e)
      if (unit << e == larger) return e;
    return -1;
  };
  const auto joins = [&](const GivensPass& pass, int64_t index, int64_t stride) {
    if (pass.first_round + pass.rounds != index || pass.rounds == most_rounds) return false;
    const int up = whole_exponent(stride, pass.unit), down = whole_exponent(pass.unit, stride);
    if (up < 0 && down < 0) return false;
    return std::find(pass.exponent, pass.exponent + pass.rounds, up) == pass.exponent + pass.rounds;
  };
  for (int64_t index = 0; index < rounds.angles.rows; ++index) {
    const int64_t stride = rounds.strides[round_of(rounds, index)];
    if (stride >= features) continue;
    if (passes.empty() || !joins(passes.back(), index, stride)) {
      passes.emplace_back();
      passes.back().first_round = int32_t(index), passes.back().unit = int32_t(stride);
    }
    GivensPass& pass = passes.back();
    if (stride < pass.unit) {
      const int more = whole_exponent(pass.unit, stride);
      for (int k = 0; k < pass.rounds; ++k) pass.exponent[k] = uint8_t(pass.exponent[k] + more);
      pass.unit = int32_t(stride);
    }
    pass.exponent[pass.rounds++] = uint8_t(whole_exponent(stride, pass.unit));
  }
  for (GivensPass& pass : passes) {
    std::copy(pass.exponent, pass.exponent + pass.rounds, pass.ascending);
    std::sort(pass.ascending, pass.ascending + pass.rounds);
    // The last q of a group's first member, without the bits of the pass.
    int64_t q = (features - 1) / pass.unit;
    for (int k = pass.rounds; k-- > 0;) {
      const int64_t bit = int64_t(1) << pass.ascending[k];
      if ((q & bit) != 0) q |= bit - 1;  // the largest number below without this bit
      q = (q >> 1 & ~(bit - 1)) | (q & (bit - 1));
    }
    pass.groups = int32_t((q + 1) * pass.unit);
  }
  return passes;
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
