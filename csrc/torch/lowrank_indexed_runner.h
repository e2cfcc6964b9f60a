// lowrank_linear_indexed in terms of the products of lrk/lowrank_indexed.h.
#pragma once

#include "lrk/lowrank_indexed.h"
#include "torch/lowrank.h"

namespace lrk::binding {

/// The products on tensors, for one op, one index and one device. All rows are in the order of the index.
class IndexedRunner {
 public:
  /// `downs` tells the number of adapters and the rank.
  IndexedRunner(const char* op, const Tensor& on, const Tensor& downs, const Tensor& ups, const Tensor& index,
                const OptionalTensor& ranks);

  /// Of the intermediate s. Tensor cores take it in x's dtype; on the CPU it is at least float32.
  ScalarType branch_dtype() const { return branch_dtype_; }
  Tensor branch() const { return empty({route_.rows, route_.rank}, branch_dtype_, on_); }

  /// s_t = scales[i] * x_t downs[i]T into `s`; the product before scaling also into `projected` when given.
  void project(const Tensor& x, const Tensor& downs, const OptionalTensor& scales, const Tensor& s,
               const OptionalTensor& projected);

  /// y_t = x_t weightT + base_t + s_t ups[i]T + bias, shaped `sizes`, in x's dtype.
  Tensor linear(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& base, const Tensor& s,
                const Tensor& ups, const OptionalTensor& bias, const std::vector<int64_t>& sizes);

  /// grads[i] = scales[i] * the sum of s_tT x_t over adapter i's rows.
  void factor_grad(const Tensor& s, const Tensor& x, const OptionalTensor& scales, const Tensor& grads);

  /// sums[i] = the sum of values_t over adapter i's rows; values [rows], sums [adapters], both float32 or both float64.
  void sum_by_adapter(const Tensor& values, const Tensor& sums);

 private:
  const Routing& routing();
  Tensor row_operand(const Tensor& tensor) const;
  Tensor stack_operand(const Tensor& stack) const;

  const char* op_;
  Tensor on_;
  const IndexedBackend& backend_;
  bool any_layout_;  // the CPU kernels take every stride and dtype; the CUDA kernels x's dtype and one unit stride
  ScalarType branch_dtype_;
  Execution execution_;
  Tensor index_;          // contiguous, as ranks_
  OptionalTensor ranks_;
  RouteArgs route_;       // of their memory
  std::optional<Routing> routing_;  // made when the first product needs it
};

}  // namespace lrk::binding
