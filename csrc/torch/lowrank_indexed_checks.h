// Argument checks of lowrank_linear_indexed; python/lrkernels/ops/_lowrank_indexed_checks.py makes the same, and
// tests/lowrank/test_indexed_errors.py holds the two together.
#pragma once

#include "torch/bridge.h"

namespace lrk::binding {

struct IndexedShape {
  int64_t adapters = 0, rank = 0, out = 0;
};

IndexedShape check_linear_indexed(const char* op, const Tensor& x, const Tensor& downs, const Tensor& ups,
                                  const Tensor& index, const OptionalTensor& ranks, const OptionalTensor& scales,
                                  const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& base);

void check_linear_indexed_backward(const char* op, const Tensor& grad, const Tensor& downs, const Tensor& ups,
                                   const Tensor& index, const OptionalTensor& ranks, const OptionalTensor& scales,
                                   const OptionalTensor& x, const OptionalTensor& projected,
                                   const OptionalTensor& weight);

/// That every index is -1 or an adapter and every rank fits, of tensors in this process's memory.
void check_index_values(const char* op, const Tensor& index, const OptionalTensor& ranks, int64_t adapters,
                        int64_t rank);

}  // namespace lrk::binding
