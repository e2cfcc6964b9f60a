#include "torch/sketch_matrices.h"

#include <array>

#include "lrk/lowrank.h"

namespace lrk::binding {
namespace {

/// A tensor on the memory of a view, for one call.
Tensor borrowed(const MatrixView& view) {
  const std::array<int64_t, 2> sizes{view.rows, view.cols}, strides{view.row_stride, view.col_stride};
  return torch::stable::from_blob(const_cast<void*>(view.data), {sizes.data(), 2}, {strides.data(), 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  view.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float);
}

Tensor borrowed(const Matrices& stack, const Tensor& on) {
  const MatrixView& first = stack.first;
  const std::array<int64_t, 3> sizes{stack.count, first.rows, first.cols};
  const std::array<int64_t, 3> strides{stack.stride, first.row_stride, first.col_stride};
  return torch::stable::from_blob(const_cast<void*>(first.data), {sizes.data(), 3}, {strides.data(), 3}, on.device(),
                                  first.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float);
}

}  // namespace

Tensor stack_of_matrices(const Tensor& tensor) {
  const int64_t dims = tensor.dim();
  int64_t count = 1;
  for (int64_t i = 0; i + 2 < dims; ++i) count *= tensor.size(i);
  return torch::stable::reshape(tensor, {count, tensor.size(dims - 2), tensor.size(dims - 1)});
}

std::vector<int64_t> batch_sizes(const Tensor& a, int64_t rows, int64_t cols) {
  std::vector<int64_t> sizes(a.sizes().begin(), a.sizes().end() - 2);
  if (rows >= 0) sizes.push_back(rows);
  if (cols >= 0) sizes.push_back(cols);
  return sizes;
}

Matrices matrices_of(const Tensor& stack) {
  const MatrixView first{stack.const_data_ptr(), kernel_dtype(stack.scalar_type()), stack.size(1), stack.size(2),
                         stack.stride(1),        stack.stride(2)};
  return {first, stack.size(0), stack.stride(0)};
}

MutableMatrices mutable_matrices_of(const Tensor& stack) {
  const MutableMatrixView first{stack.mutable_data_ptr(), kernel_dtype(stack.scalar_type()), stack.size(1), stack.size(2),
                                stack.stride(1),          stack.stride(2)};
  return {first, stack.size(0), stack.stride(0)};
}

MatrixProduct matrix_product(const Execution& execution) {
  return [&execution](const MatrixView& a, const MatrixView& b, const MutableMatrixView& out) -> Status {
    LinearArgs args;
    args.s = a, args.up = b.transposed(), args.y = out;
    const LowRankBackend& own = lowrank_cpu();
    if (!own.library_linear(args, execution.context())) return own.linear(args, execution.context());
    record_dispatch("library_gemm");
    aten_addmm_cpu(borrowed(out), std::nullopt, borrowed(a), borrowed(b), 1.0);
    return {};
  };
}

SymmetricEigen symmetric_eigen() {
  return [](double* a, int64_t size, double* values) -> Status {
    record_dispatch("library_eigh");
    const MatrixView view{a, DType::kFloat64, size, size, size, 1};
    const auto [ascending, columns] = aten_eigh(borrowed(view));
    const double* const from = static_cast<const double*>(ascending.const_data_ptr());
    const double* const vectors = static_cast<const double*>(columns.const_data_ptr());
    const int64_t along = columns.stride(0), across = columns.stride(1);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t j = size - 1 - i;
      values[i] = from[j];
      for (int64_t k = 0; k < size; ++k) a[i * size + k] = vectors[k * along + j * across];
    }
    return {};
  };
}

BatchedProduct batched_product(const Tensor& on) {
  return [on](const Matrices& a, const Matrices& b, const MutableMatrices& out) -> Status {
    record_dispatch("library_gemm");
    aten_bmm(borrowed(out, on), borrowed(a, on), borrowed(b, on));
    return {};
  };
}

}  // namespace lrk::binding
