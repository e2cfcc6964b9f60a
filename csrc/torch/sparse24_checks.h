// What the 2:4 ops ask of their arguments, before any work.
#pragma once

#include <string>

#include "lrk/sparse24.h"
#include "torch/bridge.h"

namespace lrk::binding {

/// The mask that the two arguments name.
Sparse24Mask check_sparse24_mask(const char* op, const Tensor& weight, bool transposable, const std::string& method);
void check_sparse24_compress(const char* op, const Tensor& weight, const Tensor& mask);
/// values [out, in / 2] and bitmask [out, ceil(in / 8)] belong together.
void check_sparse24_format(const char* op, const Tensor& values, const Tensor& bitmask);
void check_sparse24_linear(const char* op, const Tensor& x, const Tensor& values, const Tensor& bitmask,
                           const OptionalTensor& packed, int64_t packed_bytes, const OptionalTensor& down,
                           const OptionalTensor& up, const OptionalTensor& bias, double scale);
void check_sparse24_linear_ste(const char* op, const Tensor& x, const Tensor& weight, const Tensor& mask,
                               const OptionalTensor& down, const OptionalTensor& up, const OptionalTensor& bias,
                               double scale);
void check_sparse24_backward(const char* op, const Tensor& grad, const Tensor& values, const Tensor& bitmask,
                             const OptionalTensor& packed, int64_t packed_bytes, const OptionalTensor& down,
                             const OptionalTensor& up, const OptionalTensor& x, int64_t needs);

}  // namespace lrk::binding
