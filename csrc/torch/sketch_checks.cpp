#include "torch/sketch_checks.h"

#include <algorithm>

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

std::string number(int64_t value) { return std::to_string(value); }

void at_least(const char* op, const char* name, int64_t value, int64_t least) {
  if (value < least) fail(op, std::string(name) + " is " + number(value) + ", expected at least " + number(least));
}

int64_t shorter_side(const Tensor& a) { return std::min(a.size(a.dim() - 2), a.size(a.dim() - 1)); }

}  // namespace

SketchKind sketch_kind(const char* op, const std::string& kind) {
  if (kind == "rademacher") return SketchKind::kRademacher;
  if (kind == "sparse_sign") return SketchKind::kSparseSign;
  if (kind == "gaussian") return SketchKind::kGaussian;
  if (kind == "hadamard") return SketchKind::kHadamard;
  if (kind == "dct") return SketchKind::kDct;
  fail(op, "kind is '" + kind + "', expected 'rademacher', 'sparse_sign', 'gaussian', 'hadamard' or 'dct'");
}

void check_sketch(const char* op, const char* name, const Tensor& a, const char* size_name, int64_t size,
                  const OptionalTensor& columns, const std::string& kind, int64_t dim, bool adjoint) {
  check_defined(op, {{name, &a}});
  check_activation(op, name, a);
  const SketchKind which = sketch_kind(op, kind);
  at_least(op, size_name, size, 0);
  const int64_t order = a.dim();
  if (dim < -order || dim >= order)
    fail(op, "dim is " + number(dim) + ", expected a dimension of " + name + ", which has shape " + shape_string(a));
  const int64_t features = adjoint ? size : a.size(dim < 0 ? dim + order : dim);
  const int64_t sketched = adjoint ? a.size(dim < 0 ? dim + order : dim) : size;
  int64_t most = features;
  if (which == SketchKind::kHadamard)
    for (most = 1; most < features;) most *= 2;
  if ((which == SketchKind::kHadamard || which == SketchKind::kDct) && sketched > most)
    fail(op, "a sketch of size " + number(sketched) + " was asked for, expected at most " + number(most) + " of " +
                 number(features) + " features because kind is '" + kind + "'");
  if (!columns) return;
  if (which != SketchKind::kDct) fail(op, "columns was given, expected none because kind is '" + kind + "'");
  if (columns->scalar_type() != ScalarType::Long)
    fail(op, "columns has dtype " + dtype_string(columns->scalar_type()) + ", expected torch.int64");
  if (columns->dim() != 1 || columns->size(0) != sketched)
    fail(op, "columns has shape " + shape_string(*columns) + ", expected " + dims({sketched}));
  check_device(op, "columns", *columns, name, a);
}

void check_matrices(const char* op, const char* name, const Tensor& a) {
  check_defined(op, {{name, &a}});
  if (!is_kernel_dtype(a.scalar_type())) {
    fail(op, std::string(name) + " has dtype " + dtype_string(a.scalar_type()) +
                 ", expected torch.float32, torch.float64, torch.bfloat16 or torch.float16");
  }
  if (a.dim() < 2) fail(op, std::string(name) + " has shape " + shape_string(a) + ", expected (..., rows, cols)");
}

void check_rank(const char* op, const Tensor& a, int64_t rank) {
  if (rank < 0 || rank > shorter_side(a))
    fail(op, "rank is " + number(rank) + ", expected 0 to " + number(shorter_side(a)) + " because a is " +
                 shape_string(a));
}

int64_t basis_size(const Tensor& a, int64_t rank, int64_t oversample) {
  const int64_t more = oversample < 0 ? std::max<int64_t>(10, rank / 2) : oversample;
  return std::min(rank + std::min(more, shorter_side(a)), shorter_side(a));
}

void check_range_finder(const char* op, const Tensor& a, int64_t rank, const OptionalTensor& q0, int64_t oversample,
                        int64_t power_iters) {
  check_matrices(op, "a", a);
  check_rank(op, a, rank);
  at_least(op, "oversample", oversample, -1);
  at_least(op, "power_iters", power_iters, 0);
  if (!q0) return;
  const int64_t dims = a.dim(), size = basis_size(a, rank, oversample);
  bool fits = q0->dim() == dims && q0->size(dims - 2) == a.size(dims - 2) && q0->size(dims - 1) <= size;
  for (int64_t i = 0; fits && i + 2 < dims; ++i) fits = q0->size(i) == a.size(i);
  if (!fits)
    fail(op, "q0 has shape " + shape_string(*q0) + ", expected a's shape with at most " + number(size) +
                 " columns because a is " + shape_string(a));
  check_kind(op, "q0", *q0, "a", a, true);
}

void check_policy(const char* op, const std::string& check) {
  if (check != "auto" && check != "raise" && check != "nan" && check != "ignore")
    fail(op, "check is '" + check + "', expected 'auto', 'raise', 'nan' or 'ignore'");
}

void check_polar(const char* op, const Tensor& a, const std::string& method, int64_t steps,
                 const std::optional<std::vector<double>>& coefficients) {
  check_matrices(op, "a", a);
  if (method != "newton_schulz" && method != "cubic" && method != "exact")
    fail(op, "method is '" + method + "', expected 'newton_schulz', 'cubic' or 'exact'");
  at_least(op, "steps", steps, 0);
  if (!coefficients) return;
  if (method != "newton_schulz") fail(op, "coefficients were given, expected none because method is '" + method + "'");
  const int64_t count = int64_t(coefficients->size());
  if (count != 3 && count != 3 * steps)
    fail(op, "coefficients has " + number(count) + " numbers, expected 3, or 3 for each of " + number(steps) +
                 " steps");
}

void check_spectral_norm_bound(const char* op, const Tensor& weight, int64_t iters) {
  check_matrices(op, "weight", weight);
  at_least(op, "iters", iters, 0);
}

}  // namespace lrk::binding
