// The Gram iteration's bound of the spectral norm, with its own rounding bounded: see spectral_norm_bound of
// python/lrkernels/reference/polar.py, which derives it.
#include <cmath>
#include <limits>

#include "cpu/sketch/kernels.h"
#include "cpu/sketch/workbench.h"

namespace lrk::cpu {
namespace {

double element(const MatrixView& view, int64_t i, int64_t j) {
  const int64_t at = i * view.row_stride + j * view.col_stride;
  return view.dtype == DType::kFloat64 ? static_cast<const double*>(view.data)[at]
                                       : double(static_cast<const float*>(view.data)[at]);
}

/// The lower triangle mirrored: a GEMM need not round both alike, and the bound is one of symmetric matrices.
void symmetrize(double* gram, int64_t size) {
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = i + 1; j < size; ++j) gram[i * size + j] = gram[j * size + i];
}

double sum_of_squares(const double* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

}  // namespace

Status norm_bound(const SpectralNormBoundArgs& args, const Context& context) {
  const MatrixView weight = args.weight.rows >= args.weight.cols ? args.weight : args.weight.transposed();
  const int64_t rows = weight.rows, size = weight.cols;
  *args.bound = 0;
  if (size == 0) return {};
  Workbench bench(context, args.product);
  double *const w = bench.scratch.take<double>(rows * size), *const gram = bench.scratch.take<double>(size * size),
         *const next = bench.scratch.take<double>(size * size);
  if (bench.scratch.failed()) return bench.scratch.failure("spectral_norm_bound");

  double largest = 0, poison = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < size; ++j) {
      w[i * size + j] = element(weight, i, j);
      largest = std::max(largest, std::fabs(w[i * size + j])), poison += 0 * w[i * size + j];
    }
  }
  if (poison != 0) return *args.bound = std::numeric_limits<double>::quiet_NaN(), Status{};
  if (largest == 0) return {};
  int shift = 0;
  std::frexp(largest, &shift);
  for (int64_t i = 0; i < rows * size; ++i) w[i] = std::ldexp(w[i], -shift);

  const double gamma = 0x1p-53 * double(rows + 8), root_slack = 1 + 0x1p-50;
  const double slack = 1 + 0x1p-53 * double(std::max(rows, size) * size + 8);  // of the sums of squares
  const MatrixView matrix = view_of<double>(static_cast<const double*>(w), rows, size);
  LRK_RETURN_IF_FAILED(bench.product(matrix.transposed(), matrix, view_of(gram, size, size)));
  symmetrize(gram, size);
  double frobenius = std::sqrt(sum_of_squares(gram, size * size));
  struct Step {
    double frobenius;
    int exponent;
  };
  std::vector<Step> steps;
  for (int64_t step = 0; step < args.iters; ++step) {
    int exponent = 0;
    std::frexp(frobenius, &exponent);
    for (int64_t i = 0; i < size * size; ++i) gram[i] = std::ldexp(gram[i], -exponent);
    steps.push_back({std::ldexp(frobenius, -exponent) * slack, exponent});
    const MatrixView g = view_of<double>(static_cast<const double*>(gram), size, size);
    LRK_RETURN_IF_FAILED(bench.product(g, g, view_of(next, size, size)));
    std::copy_n(next, size * size, gram), symmetrize(gram, size);
    frobenius = std::sqrt(sum_of_squares(gram, size * size));
  }
  double bound = frobenius * slack;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step)
    bound = std::ldexp(std::sqrt(bound + gamma * step->frobenius * step->frobenius) * root_slack, step->exponent);
  const double squared = bound + gamma * sum_of_squares(w, rows * size) * slack;
  constexpr double kLeastNormal = std::numeric_limits<double>::min();
  const double scaled = std::ldexp(std::sqrt(squared) * root_slack, shift);  // exact but for subnormal numbers
  *args.bound = scaled < kLeastNormal ? std::nextafter(scaled, kLeastNormal) : scaled;
  return {};
}

}  // namespace lrk::cpu
