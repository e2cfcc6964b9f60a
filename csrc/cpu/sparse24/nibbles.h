// Which two of four entries a nibble of the bitmask keeps. A malformed nibble stands for the first two, so that reading
// by it stays within a group.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace lrk::cpu {

struct KeptPair {
  uint8_t first, second;
};

constexpr KeptPair kKeptPairs[16] = {{0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 2}, {1, 2}, {0, 1},
                                     {0, 1}, {0, 3}, {1, 3}, {0, 1}, {2, 3}, {0, 1}, {0, 1}, {0, 1}};

/// Bit n: whether the nibble n has two bits.
constexpr unsigned kKeepingTwo = 0x1668;
constexpr bool keeps_two(unsigned nibble) { return (kKeepingTwo >> (nibble & 15u) & 1u) != 0; }

inline unsigned nibble_of(const uint8_t* bitmask_row, int64_t group) {
  return unsigned(bitmask_row[group >> 1] >> (4 * (group & 1))) & 15u;
}

/// Of four bytes that are 0 or 1: byte i becomes bit i.
inline unsigned nibble_of_bytes(const uint8_t* mask) {
  uint32_t word;
  std::memcpy(&word, mask, sizeof word);
  if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap32(word);
  return ((word & 0x01010101u) * 0x01020408u >> 24) & 15u;
}

}  // namespace lrk::cpu
