// Argument checks of the sketch family: each throws, naming the op and the argument. The Python twins make the same.
#pragma once

#include "lrk/sketch.h"
#include "torch/bridge.h"

namespace lrk::binding {

SketchKind sketch_kind(const char* op, const std::string& kind);
/// `size_name` says which of the two sizes was given: "size" of a sketch, "full_size" of its adjoint.
void check_sketch(const char* op, const char* name, const Tensor& a, const char* size_name, int64_t size,
                  const OptionalTensor& columns, const std::string& kind, int64_t dim, bool adjoint);
/// [..., rows, cols] of a kernel dtype.
void check_matrices(const char* op, const char* name, const Tensor& a);
void check_rank(const char* op, const Tensor& a, int64_t rank);
/// Columns of a range finder's basis.
int64_t basis_size(const Tensor& a, int64_t rank, int64_t oversample);
void check_range_finder(const char* op, const Tensor& a, int64_t rank, const OptionalTensor& q0, int64_t oversample,
                        int64_t power_iters);
void check_policy(const char* op, const std::string& check);
void check_polar(const char* op, const Tensor& a, const std::string& method, int64_t steps,
                 const std::optional<std::vector<double>>& coefficients);
void check_spectral_norm_bound(const char* op, const Tensor& weight, int64_t iters);

}  // namespace lrk::binding
