// Whether the plans of the sketch family's CPU kernels say what these take.
#include <algorithm>
#include <string>
#include <vector>

#include "cpu/sketch/orthonormalize.h"
#include "cpu_test.h"
#include "lrk/sketch_batched.h"

namespace {

using namespace lrk;
using namespace lrk::testing;

/// Bytes that an operation asks for, which are those of its plan; more where it makes products of its own besides.
template <class Args>
void check_workspace(const std::string& what, Plan (*plan)(const Args&, const Context&),
                     Status (*operation)(const Args&, const Context&), const Args& args, bool own_products = false) {
  TestContext test;
  size_t bytes = 0;
  const auto allocate = test.context.allocate;
  test.context.allocate = [&](size_t more) { return bytes += more, allocate(more); };
  const size_t planned = plan(args, test.context).workspace_bytes;
  expect(bytes == 0, what + ": a plan takes memory");
  expect(operation(args, test.context).ok(), what);
  expect(bytes == planned || (own_products && bytes > planned),
         what + ": " + std::to_string(bytes) + " bytes, planned " + std::to_string(planned));
}

template <class T>
void check_workspaces() {
  const SketchBackend& backend = sketch_cpu();
  const MatrixProduct product = [](const MatrixView& a, const MatrixView& b, const MutableMatrixView& out) -> Status {
    const auto at = [](const MatrixView& view, int64_t i, int64_t j) {
      const int64_t offset = i * view.row_stride + j * view.col_stride;
      return view.dtype == DType::kFloat64 ? static_cast<const double*>(view.data)[offset]
                                           : double(static_cast<const float*>(view.data)[offset]);
    };
    for (int64_t i = 0; i < out.rows; ++i)
      for (int64_t j = 0; j < out.cols; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < a.cols; ++k) sum += at(a, i, k) * at(b, k, j);
        const int64_t offset = i * out.row_stride + j * out.col_stride;
        if (out.dtype == DType::kFloat64)
          static_cast<double*>(out.data)[offset] = sum;
        else
          static_cast<float*>(out.data)[offset] = float(sum);
      }
    return {};
  };
  struct Shape {
    int64_t rows, cols, basis, rank, warm, steps;
  };
  for (const Shape& shape : {Shape{300, 40, 12, 8, 0, 1}, {150, 200, 24, 10, 6, 0}, {180, 500, 60, 40, 0, 2}}) {
    const auto [rows, cols, basis, rank, warm, steps] = shape;
    std::string name = sizeof(T) == 8 ? " float64 " : " float32 ";
    name += std::to_string(rows) + "x" + std::to_string(cols);
    const int64_t size = std::min(rows, cols);
    std::vector<T> a, q0(size_t(rows * std::max<int64_t>(warm, 1)), T(0)), out(size_t(3 * rows * cols));
    for (const double value : random(rows * cols, 31)) a.push_back(T(value));
    for (int64_t j = 0; j < warm; ++j) q0[size_t(j * warm + j)] = 1;
    const MatrixView from = cpu::view_of<T>(static_cast<const T*>(a.data()), rows, cols);
    OrthonormalizeArgs qr;
    qr.a = from, qr.product = product, qr.q = cpu::view_of(out.data(), rows, size);
    qr.r = cpu::view_of(out.data() + rows * size, size, cols);
    check_workspace("orthonormalize" + name, backend.plan_orthonormalize, backend.orthonormalize, qr,
                    cpu::reflects_at_once(rows, size));
    RangeFinderArgs range;
    range.a = from, range.power_iters = steps, range.product = product;
    range.q = cpu::view_of(out.data(), rows, basis);
    if (warm > 0) range.q0 = cpu::view_of<T>(static_cast<const T*>(q0.data()), rows, warm);
    check_workspace("range_finder" + name, backend.plan_range_finder, backend.range_finder, range);
    RsvdArgs svd;
    svd.range = range, svd.basis = basis, svd.u = cpu::view_of(out.data(), rows, rank);
    svd.v = cpu::view_of(out.data() + rows * rank, cols, rank);
    svd.s = cpu::view_of(out.data() + 2 * rows * cols, 1, rank);
    check_workspace("rsvd" + name, backend.plan_rsvd, backend.rsvd, svd);
    PolarArgs polar;
    polar.a = from, polar.product = product, polar.out = cpu::view_of(out.data(), rows, cols);
    polar.coefficients = {1.5, -0.5, 0.0};
    check_workspace("polar" + name, backend.plan_polar, backend.polar, polar);
    polar.exact = true;
    check_workspace("exact polar" + name, backend.plan_polar, backend.polar, polar,
                    cpu::reflects_at_once(std::max(rows, cols), size));
    double bound = 0;
    SpectralNormBoundArgs norm_bound;
    norm_bound.weight = from, norm_bound.iters = 1, norm_bound.product = product, norm_bound.bound = &bound;
    check_workspace("norm bound" + name, backend.plan_spectral_norm_bound, backend.spectral_norm_bound, norm_bound);
    BatchedPolarArgs stack;
    stack.a = {cpu::view_of<T>(static_cast<const T*>(a.data()), rows / 10, cols), 10, rows / 10 * cols};
    stack.out = {cpu::view_of(out.data(), rows / 10, cols), 10, rows / 10 * cols};
    stack.coefficients = {1.5, -0.5, 0.0};
    check_workspace("polar stack" + name, backend.plan_polar_stack, backend.polar_stack, stack);
  }
}

}  // namespace

int main() {
  check_workspaces<float>();
  check_workspaces<double>();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 100 ? 0 : 1;
}
