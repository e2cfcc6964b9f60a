// The low-rank ops in terms of the three primitives of lrk/lowrank.h.
#pragma once

#include "lrk/lowrank.h"
#include "torch/bridge.h"

namespace lrk::binding {

/// The primitives on tensors, for one op on one device: makes operands fit the backend, runs or plans the kernels.
class LowRankRunner {
 public:
  LowRankRunner(const char* op, const Tensor& on, const Tensor& factor);

  /// Intermediate s matrices: the wider of x's and the factors' dtypes, and at least float32 on the CPU.
  ScalarType branch_dtype() const { return branch_dtype_; }

  /// s = scale * gate . (drop(x) downT) into `s`; the ungated product also into `projected` when given.
  void project(const Tensor& x, const Tensor& down, const OptionalTensor& gate, const OptionalTensor& seed,
               double scale, double dropout, const Tensor& s, const OptionalTensor& projected = std::nullopt);

  /// y = x weightT + base + scale * mask . (s upT) + bias, shaped `sizes`.
  Tensor linear(const OptionalTensor& x, const OptionalTensor& weight, const OptionalTensor& base, const Tensor& s,
                const Tensor& up, const OptionalTensor& bias, const OptionalTensor& seed, double scale, double dropout,
                std::vector<int64_t> sizes, ScalarType dtype);

  /// x weightT shaped `sizes`, for a kernel that adds to it: x's dtype where the library computes it, else float32 or
  /// wider, so that the sum is the first thing to be rounded.
  Tensor dense(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& sizes);

  /// grad = scale * sT drop(x) into the matrix `grad` [rank, cols].
  void factor_grad(const Tensor& s, const Tensor& x, const OptionalTensor& seed, double scale, double dropout,
                   const Tensor& grad);

  /// out = added + scale * a b, matrices of one dtype and any strides; `added` may be `out`. On CUDA float32.
  void product(const Tensor& out, const OptionalTensor& added, const Tensor& a, const Tensor& b, double scale);

  /// For an op's own kernels between the products.
  const Context& context() const { return execution_.context(); }

  /// A fresh [rows, cols] matrix for an intermediate s.
  Tensor branch(int64_t rows, int64_t cols) const { return empty({rows, cols}, branch_dtype_, on_); }

 private:
  /// out = added + scale * a b, matrices, where the backend prefers the caller's library.
  void library_product(const Tensor& out, const OptionalTensor& added, const Tensor& a, const Tensor& b, double scale);
  Tensor row_operand(const Tensor& tensor) const;
  Tensor factor_operand(const Tensor& matrix) const;
  /// The CUDA kernels take a float32 factor beside a half x, but not the reverse.
  Tensor no_narrower(const Tensor& factor, const Tensor& x) const;

  const char* op_;
  Tensor on_;
  const LowRankBackend& backend_;
  bool any_layout_;  // the CPU kernels take every stride; the CUDA kernels want one unit stride
  ScalarType branch_dtype_;
  Execution execution_;
};

}  // namespace lrk::binding
