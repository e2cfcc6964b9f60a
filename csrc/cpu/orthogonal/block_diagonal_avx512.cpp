// The block-diagonal products for AVX-512; compiled with its flags, called only where the CPU has it.
#if defined(__x86_64__)

#include "cpu/gemm/vector_avx512.h"

#include "cpu/orthogonal/block_diagonal_impl.h"

namespace lrk::cpu {

template <>
const BlockKernels<float>& block_kernels_avx512<float>() {
  static constexpr BlockKernels<float> table = make_block_kernels<FloatVector>();
  return table;
}

template <>
const BlockKernels<double>& block_kernels_avx512<double>() {
  static constexpr BlockKernels<double> table = make_block_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu

#endif
