// 2:4 masks with a group, or a 4 x 4 tile, in every lane of a vector; compiled once per instruction set.
//
// The best transposable mask of a tile is one of 90. Two rows that keep columns c times each go with two rows below
// that keep them 2 - c times: so 36 sums of the upper rows and 36 of the lower ones, the best of each for the 19
// possible c, and 19 sums of those two: about 300 operations a tile, where trying all 90 patterns takes 90 * 16.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/sparse24/kernels.h"

namespace lrk::cpu {
namespace {

struct Halves {
  // Of every c in lexicographic order: the pairs of rows that make it, and those that make 2 - c.
  int count[19] = {}, upper[19][6] = {}, lower[19][6] = {};
};

constexpr int kColumns[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};

constexpr int column_counts(int first, int second, bool complement) {
  int counts[4] = {};
  for (const int column : kColumns[first]) ++counts[column];
  for (const int column : kColumns[second]) ++counts[column];
  int key = 0;
  for (const int count : counts) key = key * 3 + (complement ? 2 - count : count);
  return key;
}

constexpr Halves make_halves() {
  Halves halves;
  int index = 0;
  for (int key = 0; key < 81; ++key) {
    int uppers = 0, lowers = 0;
    for (int pattern = 0; pattern < 36; ++pattern) {
      if (column_counts(pattern / 6, pattern % 6, false) == key) halves.upper[index][uppers++] = pattern;
      if (column_counts(pattern / 6, pattern % 6, true) == key) halves.lower[index][lowers++] = pattern;
    }
    if (uppers > 0) halves.count[index++] = uppers;
  }
  return halves;
}

constexpr Halves kHalves = make_halves();

/// Four mask bytes of a pair of columns.
constexpr std::array<std::array<uint8_t, 4>, 6> make_pair_bytes() {
  std::array<std::array<uint8_t, 4>, 6> bytes{};
  for (int pair = 0; pair < 6; ++pair) bytes[pair][kColumns[pair][0]] = bytes[pair][kColumns[pair][1]] = 1;
  return bytes;
}
constexpr auto kPairBytes = make_pair_bytes();

template <class T, int bytes>
struct MaskLanes {
  using Word = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  static constexpr int kLanes = bytes / int(sizeof(T));
  typedef T Values __attribute__((vector_size(bytes)));
  typedef Word Words __attribute__((vector_size(bytes)));

  /// |w| by a power of two: no sum of eight overflows, and what is not finite outweighs all that is.
  static T magnitude(T weight) {
    constexpr Word infinite = sizeof(T) == 8 ? Word(0x7ff0000000000000) : Word(0x7f800000);
    const T largest = sizeof(T) == 8 ? T(0x1p1020) : T(0x1p124);
    Word bits;
    std::memcpy(&bits, &weight, sizeof bits);
    bits &= ~(Word(1) << (8 * sizeof(T) - 1));
    T absolute;
    std::memcpy(&absolute, &bits, sizeof bits);
    return bits >= infinite ? largest : absolute * T(0x1p-8);
  }

  /// |w| as an integer, which orders magnitudes as they are, the smallest too; what is not finite is infinite.
  static Word magnitude_bits(T weight) {
    constexpr Word infinite = sizeof(T) == 8 ? Word(0x7ff0000000000000) : Word(0x7f800000);
    Word bits;
    std::memcpy(&bits, &weight, sizeof bits);
    bits &= ~(Word(1) << (8 * sizeof(T) - 1));
    return bits < infinite ? bits : infinite;
  }

  /// Column c of group i becomes lane i of columns[c]; past the last group zeros.
  static void load_bits(const T* weights, int64_t groups, Words (&columns)[4]) {
    Word staged[4][kLanes] = {};
    const int count = groups < kLanes ? int(groups) : kLanes;
    for (int i = 0; i < count; ++i)
      for (int c = 0; c < 4; ++c) staged[c][i] = magnitude_bits(weights[4 * i + c]);
    std::memcpy(columns, staged, sizeof staged);
  }

  /// The same of magnitudes that can be added.
  static void load(const T* weights, int64_t groups, Values (&columns)[4]) {
    T staged[4][kLanes] = {};
    if (groups >= kLanes) {
      for (int i = 0; i < kLanes; ++i)
        for (int c = 0; c < 4; ++c) staged[c][i] = magnitude(weights[4 * i + c]);
    } else {
      for (int i = 0; i < groups; ++i)
        for (int c = 0; c < 4; ++c) staged[c][i] = magnitude(weights[4 * i + c]);
    }
    std::memcpy(columns, staged, sizeof staged);
  }
};

template <class Lanes, class T>
void mask_rows(const T* weights, int64_t groups, uint8_t* mask) {
  using Words = typename Lanes::Words;
  for (int64_t group = 0; group < groups; group += Lanes::kLanes) {
    Words w[4];
    Lanes::load_bits(weights + 4 * group, groups - group, w);
    // Comparisons are 0 or -1; of equal ones the first wins.
    const Words ab = w[0] >= w[1], ac = w[0] >= w[2], ad = w[0] >= w[3], bc = w[1] >= w[2], bd = w[1] >= w[3],
                cd = w[2] >= w[3];
    const Words wins[4] = {-(ab + ac + ad), 1 + ab - bc - bd, 2 + ac + bc - cd, 3 + ad + bd + cd};
    Words bytes{};
    for (int c = 0; c < 4; ++c) bytes |= ((wins[c] >= 2) & 1) << (8 * c);
    const int64_t count = groups - group < Lanes::kLanes ? groups - group : Lanes::kLanes;
    for (int i = 0; i < count; ++i) {
      const uint32_t word = uint32_t(bytes[i]);
      const uint8_t four[4] = {uint8_t(word), uint8_t(word >> 8), uint8_t(word >> 16), uint8_t(word >> 24)};
      std::memcpy(mask + 4 * (group + i), four, 4);
    }
  }
}

/// The best of some pairs of rows: the largest sum, and which.
template <class Lanes>
inline void best_of(const typename Lanes::Values* first, const typename Lanes::Values* second, const int* patterns,
                    int count, typename Lanes::Values& best, typename Lanes::Words& which) {
  best = first[patterns[0] / 6] + second[patterns[0] % 6];
  which = typename Lanes::Words{} + patterns[0];
  for (int i = 1; i < count; ++i) {
    const typename Lanes::Values sum = first[patterns[i] / 6] + second[patterns[i] % 6];
    const typename Lanes::Words better = sum > best;
    best = better ? sum : best;
    which = better ? typename Lanes::Words{} + patterns[i] : which;
  }
}

template <class Lanes, class T>
void mask_transposable(const T* weights, int64_t stride, int64_t groups, uint8_t* mask, int64_t mask_stride) {
  using Values = typename Lanes::Values;
  using Words = typename Lanes::Words;
  for (int64_t group = 0; group < groups; group += Lanes::kLanes) {
    Values pairs[4][6];
    for (int row = 0; row < 4; ++row) {
      Values w[4];
      Lanes::load(weights + row * stride + 4 * group, groups - group, w);
      for (int pair = 0; pair < 6; ++pair) pairs[row][pair] = w[kColumns[pair][0]] + w[kColumns[pair][1]];
    }
    Values best{};
    Words upper{}, lower{};
    for (int c = 0; c < 19; ++c) {
      Values above, below;
      Words which_above, which_below;
      best_of<Lanes>(pairs[0], pairs[1], kHalves.upper[c], kHalves.count[c], above, which_above);
      best_of<Lanes>(pairs[2], pairs[3], kHalves.lower[c], kHalves.count[c], below, which_below);
      const Values sum = above + below;
      const Words better = c == 0 ? Words{} - 1 : Words(sum > best);
      best = better ? sum : best;
      upper = better ? which_above : upper;
      lower = better ? which_below : lower;
    }
    const int64_t count = groups - group < Lanes::kLanes ? groups - group : Lanes::kLanes;
    for (int i = 0; i < count; ++i) {
      const int chosen[4] = {int(upper[i]) / 6, int(upper[i]) % 6, int(lower[i]) / 6, int(lower[i]) % 6};
      for (int row = 0; row < 4; ++row)
        std::memcpy(mask + row * mask_stride + 4 * (group + i), kPairBytes[chosen[row]].data(), 4);
    }
  }
}

template <class T, int bytes>
constexpr Sparse24MaskKernels<T> make_mask_kernels() {
  using Lanes = MaskLanes<T, bytes>;
  return {mask_rows<Lanes, T>, mask_transposable<Lanes, T>};
}

}  // namespace
}  // namespace lrk::cpu
