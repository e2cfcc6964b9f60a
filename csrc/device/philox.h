// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11): a pure function
// from (seed, element index) to 32 random bits, the same on CPU, GPU and emulator.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define LRK_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LRK_HOST_DEVICE inline
#endif

namespace lrk {

struct PhiloxBlock {
  uint32_t word[4];
};

/// The four words for counter (low 64 bits `counter`, high 64 bits zero) under the 64-bit key `seed`.
LRK_HOST_DEVICE PhiloxBlock philox4x32_10(uint64_t seed, uint64_t counter) {
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  uint32_t c0 = uint32_t(counter), c1 = uint32_t(counter >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t(0xD2511F53u) * c0, product1 = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t next0 = uint32_t(product1 >> 32) ^ c1 ^ key0, next2 = uint32_t(product0 >> 32) ^ c3 ^ key1;
    c1 = uint32_t(product1), c3 = uint32_t(product0), c0 = next0, c2 = next2;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// The 32 random bits of element `index`: word index % 4 of block index / 4.
LRK_HOST_DEVICE uint32_t philox_element(uint64_t seed, uint64_t index) {
  return philox4x32_10(seed, index >> 2).word[index & 3];
}

/// An element is kept when its bits are >= this; probability 1 keeps nothing and is handled by a zero dropout_scale.
LRK_HOST_DEVICE uint32_t dropout_threshold(double probability) {
  const double scaled = probability * 4294967296.0;
  return scaled >= 4294967295.0 ? 4294967295u : uint32_t(scaled);
}

/// What kept elements are multiplied by: 1 / (1 - probability), and 0 for probability 1.
LRK_HOST_DEVICE double dropout_scale(double probability) { return probability >= 1.0 ? 0.0 : 1.0 / (1.0 - probability); }

}  // namespace lrk
