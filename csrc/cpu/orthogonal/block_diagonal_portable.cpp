// The block-diagonal products for any CPU.
#include "cpu/gemm/vector_portable.h"

#include "cpu/orthogonal/block_diagonal_impl.h"

namespace lrk::cpu {

template <>
const BlockKernels<float>& block_kernels_portable<float>() {
  static constexpr BlockKernels<float> table = make_block_kernels<FloatVector>();
  return table;
}

template <>
const BlockKernels<double>& block_kernels_portable<double>() {
  static constexpr BlockKernels<double> table = make_block_kernels<DoubleVector>();
  return table;
}

}  // namespace lrk::cpu
