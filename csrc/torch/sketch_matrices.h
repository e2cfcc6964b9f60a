// Between tensors and the torch-free algorithms of lrk/sketch.h: stacks of matrices, and products by torch's GEMM where
// that is the faster one.
#pragma once

#include "lrk/sketch.h"
#include "lrk/sketch_batched.h"
#include "torch/inspection.h"

namespace lrk::binding {

/// [..., rows, cols] as [count, rows, cols].
Tensor stack_of_matrices(const Tensor& tensor);

/// `a`'s leading dimensions with `rows`, `cols` last, or with what is not negative of them.
std::vector<int64_t> batch_sizes(const Tensor& a, int64_t rows, int64_t cols);

/// A stack as a device's algorithms take it.
Matrices matrices_of(const Tensor& stack);
MutableMatrices mutable_matrices_of(const Tensor& stack);

/// One matrix of it.
inline MatrixView view_at(const Matrices& stack, int64_t index) {
  MatrixView view = stack.first;
  view.data = static_cast<const char*>(view.data) + index * stack.stride * int64_t(size_of(view.dtype));
  return view;
}
inline MutableMatrixView view_at(const MutableMatrices& stack, int64_t index) {
  MutableMatrixView view = stack.first;
  view.data = static_cast<char*>(view.data) + index * stack.stride * int64_t(size_of(view.dtype));
  return view;
}

/// a b on the CPU, by whom the low-rank family's heuristics choose. For as long as `execution` lives.
MatrixProduct matrix_product(const Execution& execution);

/// torch's eigh, LAPACK's.
SymmetricEigen symmetric_eigen();

/// Products of stacks on `on`'s device, by torch's GEMM.
BatchedProduct batched_product(const Tensor& on);

/// What serves `on`'s device, nullptr on the CPU.
inline const BatchedSketchBackend* batched_sketch_for(const char* op, const Tensor& on) {
  if (!on.is_cuda()) return emulating() ? sketch_cuda_emulated() : nullptr;
  if (sketch_cuda() == nullptr) fail(op, "this build of lrkernels has no CUDA kernels");
  return sketch_cuda();
}

/// float32, or float64 of float64: in what the family computes.
inline ScalarType wide_dtype(const Tensor& a) { return wider(a.scalar_type(), ScalarType::Float); }

}  // namespace lrk::binding
