// Packed 2:4 panels for AVX2; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx2.h"

#include "cpu/sparse24/panel_impl.h"

namespace lrk::cpu {
namespace {

struct Lanes256 : FloatVector {
  using Indices = __m256i;
  static Indices load_indices(const uint32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  template <int by>
  static Indices shift(Indices v) {
    return _mm256_srli_epi32(v, by);
  }
  static Register broadcast4(const float* from) {
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from));
  }
  /// Lane i becomes the lane of its four that the low two bits of indices[i] say.
  static Register permute(Register four, Indices indices) { return _mm256_permutevar_ps(four, indices); }
  static void split(const uint32_t* from, BFloat16, Register& low, Register& high) {
    const __m256i words = load_indices(from);
    low = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    high = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(int(0xffff0000u))));
  }
  static void split(const uint32_t* from, Float16, Register& low, Register& high) {
    const __m256i words = load_indices(from);
    // Saturation leaves 16-bit numbers as they are; the two halves of the register are packed apart.
    const __m256i lows = _mm256_and_si256(words, _mm256_set1_epi32(0xffff)), highs = _mm256_srli_epi32(words, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lows, highs), 0xD8);
    low = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
    high = _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1));
  }
};

}  // namespace

const Sparse24Kernels& sparse24_kernels_avx2() {
  static constexpr Sparse24Kernels table{multiply_panel<Lanes256>};
  return table;
}

}  // namespace lrk::cpu

#endif
