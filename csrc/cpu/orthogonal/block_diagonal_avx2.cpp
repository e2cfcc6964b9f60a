// The block-diagonal products for AVX2; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx2.h"

#include "cpu/orthogonal/block_diagonal_impl.h"

namespace lrk::cpu {

template <>
const BlockKernels<float>& block_kernels_avx2<float>() {
  static constexpr BlockKernels<float> table = make_block_kernels<FloatVector>();
  return table;
}

template <>
const BlockKernels<double>& block_kernels_avx2<double>() {
  static constexpr BlockKernels<double> table = make_block_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu

#endif
