// Packed 2:4 panels for AVX-512; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx512.h"

#include "cpu/sparse24/panel_impl.h"

namespace lrk::cpu {
namespace {

struct Lanes512 : FloatVector {
  using Indices = __m512i;
  static Indices load_indices(const uint32_t* from) { return _mm512_loadu_si512(from); }
  template <int by>
  static Indices shift(Indices v) {
    return _mm512_srli_epi32(v, by);
  }
  static Register broadcast4(const float* from) { return _mm512_broadcast_f32x4(_mm_loadu_ps(from)); }
  /// Lane i becomes the lane of its four that the low two bits of indices[i] say.
  static Register permute(Register four, Indices indices) { return _mm512_permutevar_ps(four, indices); }
  static void split(const uint32_t* from, BFloat16, Register& low, Register& high) {
    const __m512i words = _mm512_loadu_si512(from);
    low = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
    high = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(int(0xffff0000u))));
  }
  static void split(const uint32_t* from, Float16, Register& low, Register& high) {
    const __m512i words = _mm512_loadu_si512(from);
    low = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
    high = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
  }
};

}  // namespace

const Sparse24Kernels& sparse24_kernels_avx512() {
  static constexpr Sparse24Kernels table{multiply_panel<Lanes512>};
  return table;
}

}  // namespace lrk::cpu

#endif
