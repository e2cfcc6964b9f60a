// Argument checks of the low-rank ops: each names the op and the argument, before any work is done. The Python twins
// and the fakes make the same checks (python/lrkernels/ops/_lowrank_checks.py); one test holds them together.
#pragma once

#include "torch/argument_checks.h"

namespace lrk::binding {

LowRankShape check_linear(const char* op, const Tensor& x, const Tensor& down, const Tensor& up,
                          const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& core,
                          const OptionalTensor& gate, const OptionalTensor& base, const OptionalTensor& seed,
                          double scale, double dropout);
void check_project(const char* op, const Tensor& x, const Tensor& down, const OptionalTensor& gate,
                   const OptionalTensor& seed, double dropout);
void check_expand(const char* op, const Tensor& s, const Tensor& up, const OptionalTensor& base,
                  const OptionalTensor& bias, double scale);
void check_merge(const char* op, const Tensor& weight, const Tensor& down, const Tensor& up,
                 const OptionalTensor& core, const OptionalTensor& gate, double scale);

// What was saved for a backward pass comes back through hooks that people write, and the ops can be called directly.
void check_linear_backward(const char* op, const Tensor& grad, const Tensor& down, const Tensor& up,
                           const OptionalTensor& x, const OptionalTensor& projected, const OptionalTensor& weight,
                           const OptionalTensor& core, const OptionalTensor& gate, const OptionalTensor& seed,
                           double dropout);
void check_project_backward(const char* op, const Tensor& grad, const Tensor& down, const OptionalTensor& x,
                            const OptionalTensor& gate, const OptionalTensor& seed, double dropout);
void check_expand_backward(const char* op, const Tensor& grad, const Tensor& up, const OptionalTensor& s);

}  // namespace lrk::binding
