// Packed 2:4 panels without any instruction set beyond the baseline.
#include "cpu/gemm/vector_portable.h"

#include "cpu/sparse24/panel_impl.h"

namespace lrk::cpu {
namespace {

struct Lanes128 : FloatVector {
  typedef uint32_t Indices __attribute__((vector_size(16)));
  static Indices load_indices(const uint32_t* from) { return Indices{from[0], from[1], from[2], from[3]}; }
  template <int by>
  static Indices shift(Indices v) {
    return v >> by;
  }
  static Register broadcast4(const float* from) { return load(from); }
  static Register permute(Register four, Indices indices) {
    Register result{};
    for (int i = 0; i < 4; ++i) result[i] = four[indices[i] & 3];
    return result;
  }
  template <class Half>
  static void split(const uint32_t* from, Half, Register& low, Register& high) {
    for (int i = 0; i < 4; ++i) {
      low[i] = widen(Half{uint16_t(from[i])});
      high[i] = widen(Half{uint16_t(from[i] >> 16)});
    }
  }
};

}  // namespace

const Sparse24Kernels& sparse24_kernels_portable() {
  static constexpr Sparse24Kernels table{multiply_panel<Lanes128>};
  return table;
}

}  // namespace lrk::cpu
