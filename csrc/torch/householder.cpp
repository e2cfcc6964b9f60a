// torch.ops.lrk.householder_apply: registration, and panels of reflections as low-rank products.
//
// A panel's unit rows U and S = (I/2 + triu(U UT, 1))^-1, which is computed in double, apply its reflections at once (lrk/householder.h):
//   y = x - q U with q = x UT S, and backward, with r = dy UT ST and N = qT r:
//   dx = dy - r U,  dU = -qT dy - rT x + (M + MT) U with M = triu(N, 1).
// From the result the same without x: q = -y UT ST, and rT x = rT y + NT U, of which only the part that is not along U's
// own rows counts:
//   dU = -qT dy - rT y + triu(N - NT, 1) U.
// In the reverse order of the reflections S is transposed, and tril takes the place of triu.
//
// Half x becomes float32 on CUDA before its products and half again after them, 24 bytes an element instead of 6, because
// the low-rank tensor-core kernels round float32 factors to half. Of U and q that costs 3.0 times the error of plain torch
// for x within the span of the vectors and 2.6 times for 128 reflections of 256 features (2.2 and 1.7 of q alone), and
// makes an error of 1.6e-3 of bf16 in dU, where the tests now hold 2e-6. Both factors as two halves each, as
// block_diagonal_mma.cuh takes its matrices, would be exact enough, at twice (x UT) and three times (q U) the rank.
#include "lrk/householder.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "lrk/square.h"
#include "torch/householder_checks.h"
#include "torch/inspection.h"
#include "torch/lowrank.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

static_assert(kMostPanelRows <= kMostInvertedRows);

/// The most reflections of a panel. Per reflection the panel's own products cost panel * features beside 2 rows *
/// features for applying it, so few rows want short panels.
int64_t most_panel_rows(int64_t rows) { return rows >= 256 ? kMostPanelRows : rows >= 64 ? 64 : 32; }

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

/// Unit rows and S of consecutive reflections, and the columns outside of which their vectors are zero.
struct Panel {
  Tensor units, s;
  int64_t first_column, columns;

  Tensor of(const Tensor& matrix) const {
    return columns == matrix.size(1) ? matrix : slice(matrix, 1, first_column, columns);
  }
  Tensor used_units() const { return of(units); }
};

class Reflections {
 public:
  Reflections(const char* op, const Tensor& x, const Tensor& vectors, bool transpose)
      : op_(op),
        vectors_(vectors),
        dtype_(wider(x.scalar_type(), ScalarType::Float)),
        transpose_(transpose),
        on_cpu_(!x.is_cuda() && !emulating()),
        householder_(backend_for(op, x, householder_cpu(), householder_cuda(), householder_cuda_emulated())),
        square_(backend_for(op, x, square_cpu(), square_cuda(), square_cuda_emulated())),
        runner_(op, x, vectors) {
    const int64_t count = vectors.size(0), features = vectors.size(1);
    panels_ = ceil_div(count, most_panel_rows(flat_rows(x)));
    panel_rows_ = ceil_div(count, panels_);
    units_ = wide(panels_ * panel_rows_, features), lengths_ = wide(count, 2);
    used_.resize(size_t(on_cpu_ && !planning() ? 2 * count : 0));
    UnitRowsArgs rows;
    rows.vectors = matrix_view(vectors_), rows.units = mutable_view(units_), rows.lengths = mutable_view(lengths_);
    rows.used_columns = used_.empty() ? nullptr : used_.data();
    run(op, "unit_rows", householder_.plan_unit_rows, householder_.unit_rows, rows, runner_.context());
    invert();
  }

  int64_t count() const { return panels_; }
  ScalarType dtype() const { return dtype_; }
  /// Half rows keep their dtype where a kernel computes with float32 beside them, and where one panel is all there is.
  bool takes(const Tensor& x) const { return panels_ == 1 && (on_cpu_ || x.scalar_type() == dtype_); }

  /// The panels in the order in which x meets them.
  Panel panel(int64_t index) const {
    const int64_t which = transpose_ ? panels_ - 1 - index : index, first = which * panel_rows_;
    Panel panel{slice(units_, 0, first, panel_rows_), slice(s_, 0, first, panel_rows_), 0, units_.size(1)};
    if (panels_ > 1 && !used_.empty()) restrict_columns(panel, first);
    return panel;
  }

  /// [rows, features] times the panel's unit rows, times S or ST as the order of the reflections and `backward` ask.
  Tensor coefficients(const Panel& panel, const Tensor& rows, bool backward) {
    const int64_t count = rows.size(0);
    const Tensor along = wide(count, panel_rows_), result = wide(count, panel_rows_);
    runner_.project(panel.of(rows), panel.used_units(), std::nullopt, std::nullopt, 1.0, 0.0, along);
    const Tensor s = transpose_ == backward ? aten_transpose(panel.s) : panel.s;  // project transposes its factor
    runner_.project(along, s, std::nullopt, std::nullopt, 1.0, 0.0, result);
    return result;
  }

  /// rows - coefficients U, in a new tensor shaped `sizes`.
  Tensor update(const Panel& panel, const Tensor& rows, const Tensor& coefficients, const std::vector<int64_t>& sizes) {
    return runner_.linear(std::nullopt, std::nullopt, rows, coefficients, aten_transpose(panel.units), std::nullopt,
                          std::nullopt, -1.0, 0.0, sizes, rows.scalar_type());
  }

  /// The same in place, in the columns that the panel uses.
  void update_in_place(const Panel& panel, const Tensor& rows, const Tensor& coefficients) {
    if (panel.columns == 0) return;
    const Tensor used = panel.of(rows);
    runner_.product(used, used, coefficients, panel.used_units(), -1.0);
  }

  Tensor apply(const Tensor& x) {
    const std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
    if (panels_ == 1) {
      const Tensor rows = takes(x) ? x : torch::stable::to(x, dtype_);
      const Tensor q = coefficients(panel(0), matrix_of(rows), false);
      return torch::stable::to(update(panel(0), rows, q, sizes), x.scalar_type());
    }
    return torch::stable::to(apply_wide(x), x.scalar_type());
  }

  /// The result before it is rounded to x's dtype.
  Tensor apply_wide(const Tensor& x) {
    const Tensor y = wide_copy(x), rows = matrix_of(y);
    for (int64_t index = 0; index < panels_; ++index)
      update_in_place(panel(index), rows, coefficients(panel(index), rows, false));
    return y;
  }

  /// dU of a panel from both sides of its equation: the sum of two matrices, whose rows are the panel's. `q` is given as
  /// `sign` times itself.
  void grad_of_units(const Panel& panel, const Tensor& q, double sign, const Tensor& r, const Tensor& grad,
                     const Tensor& rows, bool of_result, Tensor first, Tensor second) {
    runner_.factor_grad(q, grad, std::nullopt, -sign, 0.0, first);
    runner_.factor_grad(r, rows, std::nullopt, -1.0, 0.0, second);
    if (panel.columns == 0) return;
    // Of the reverse order N is NT here and the triangle's transpose below, so that it is the upper one again.
    const Tensor n = wide(panel_rows_, panel_rows_), upper = wide(panel_rows_, panel_rows_);
    runner_.factor_grad(transpose_ ? r : q, transpose_ ? q : r, std::nullopt, sign, 0.0, n);
    MirrorSumArgs triangle;
    triangle.a = matrix_view(n), triangle.out = mutable_view(upper);
    triangle.beta = of_result ? -1.0 : 0.0, triangle.strictly_upper = true;
    run(op_, "mirror_sum", square_.plan_mirror_sum, square_.mirror_sum, triangle, runner_.context());
    const Tensor mirrored = aten_transpose(upper), used = panel.of(first);
    if (!of_result || !transpose_) runner_.product(used, used, upper, panel.used_units(), 1.0);
    if (!of_result || transpose_) runner_.product(used, used, mirrored, panel.used_units(), 1.0);
  }

  /// (dx, dvectors) from dy and x, or y where `of_result`.
  std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& rows, bool of_result) {
    if (panels_ > 1 && !of_result) return backward(grad, apply_wide(rows), true);
    const Tensor first = wide(units_.size(0), units_.size(1)), second = wide(units_.size(0), units_.size(1));
    const Tensor dx = panels_ == 1 ? backward_of_one(grad, rows, of_result, first, second)
                                   : backward_of_many(grad, rows, first, second);
    const Tensor dvectors = like(vectors_);
    UnitRowsBackwardArgs args;
    args.units = matrix_view(units_), args.lengths = matrix_view(lengths_);
    args.first = matrix_view(first), args.second = matrix_view(second), args.dvectors = mutable_view(dvectors);
    run(op_, "unit_rows_backward", householder_.plan_unit_rows_backward, householder_.unit_rows_backward, args,
        runner_.context());
    return {torch::stable::to(dx, grad.scalar_type()), dvectors};
  }

 private:
  Tensor backward_of_one(const Tensor& grad, const Tensor& rows, bool of_result, const Tensor& first,
                         const Tensor& second) {
    const Panel all = panel(0);
    const Tensor g = takes(grad) ? grad : torch::stable::to(grad, dtype_);
    const Tensor x = takes(rows) ? rows : torch::stable::to(rows, dtype_);
    const Tensor q = coefficients(all, matrix_of(x), of_result), r = coefficients(all, matrix_of(g), true);
    grad_of_units(all, q, of_result ? -1.0 : 1.0, r, matrix_of(g), matrix_of(x), of_result, first, second);
    return update(all, g, r, {grad.sizes().begin(), grad.sizes().end()});
  }

  /// The result and its gradient go back through the panels as rows of one matrix.
  Tensor backward_of_many(const Tensor& grad, const Tensor& result, const Tensor& first, const Tensor& second) {
    const int64_t count = flat_rows(grad);
    const Tensor both = wide(2 * count, units_.size(1));
    Tensor y = slice(both, 0, 0, count), g = slice(both, 0, count, count);
    torch::stable::copy_(y, matrix_of(result)), torch::stable::copy_(g, matrix_of(grad));
    for (int64_t index = panels_ - 1; index >= 0; --index) {
      const Panel now = panel(index);
      const int64_t top = (transpose_ ? panels_ - 1 - index : index) * panel_rows_;
      const Tensor back = coefficients(now, both, true);
      grad_of_units(now, slice(back, 0, 0, count), -1.0, slice(back, 0, count, count), g, y, true,
                    slice(first, 0, top, panel_rows_), slice(second, 0, top, panel_rows_));
      update_in_place(now, both, back);
    }
    Tensor dx = like(grad);
    return torch::stable::copy_(dx, torch::stable::reshape(g, grad.sizes()));
  }

  Tensor wide(int64_t rows, int64_t cols) const { return empty({rows, cols}, dtype_, vectors_); }

  Tensor wide_copy(const Tensor& x) const {
    Tensor copy = empty(std::vector<int64_t>(x.sizes().begin(), x.sizes().end()), dtype_, x);
    return torch::stable::copy_(copy, x);
  }

  /// S of every panel, in double: of vectors that lie close together S is as ill conditioned as triangles of ones are, and
  /// a float Gram matrix alone costs an order of magnitude of orthogonality.
  void invert() {
    if (householder_.panel_inverses != nullptr) {
      s_ = wide(units_.size(0), panel_rows_);
      PanelInverseArgs args;
      args.units = matrix_view(units_), args.inverses = mutable_view(s_);
      run(op_, "panel_inverses", householder_.plan_panel_inverses, householder_.panel_inverses, args, runner_.context());
      return;
    }
    const ScalarType dtype = ScalarType::Double;
    const Tensor all = torch::stable::to(units_, dtype), gram = empty({all.size(0), panel_rows_}, dtype, vectors_);
    s_ = empty({all.size(0), panel_rows_}, dtype, vectors_);
    for (int64_t first = 0; first < all.size(0); first += panel_rows_) {
      const Tensor units = slice(all, 0, first, panel_rows_);
      runner_.project(units, units, std::nullopt, std::nullopt, 1.0, 0.0, slice(gram, 0, first, panel_rows_));
    }
    MirrorSumArgs triangle;
    triangle.a = matrix_view(gram), triangle.out = mutable_view(s_);
    triangle.strictly_upper = true, triangle.gamma = 0.5;
    run(op_, "mirror_sum", square_.plan_mirror_sum, square_.mirror_sum, triangle, runner_.context());
    if (!planning()) take_lengths(gram);
    InvertArgs inverse;
    inverse.matrices = matrix_view(s_), inverse.inverses = mutable_view(s_);
    run(op_, "invert", square_.plan_invert, square_.invert, inverse, runner_.context());
    s_ = torch::stable::to(s_, dtype_);
  }

  /// Unit rows are so only to rounding, and what is inverted in double must be the reflections of the rows there are.
  void take_lengths(const Tensor& gram) {
    const double* const squares = static_cast<const double*>(gram.const_data_ptr());
    double* const diagonal = static_cast<double*>(s_.mutable_data_ptr());
    for (int64_t row = 0; row < units_.size(0); ++row) {
      const int64_t at = row * panel_rows_ + row % panel_rows_;
      if (squares[at] != 0) diagonal[at] = squares[at] / 2;  // a zero vector keeps 1/2, any number would do
    }
  }

  /// Vectors of a QR decomposition begin with zeros, the more the later they come: half of the work of a square one.
  void restrict_columns(Panel& panel, int64_t first) const {
    int64_t begin = panel.columns, end = 0;
    const int64_t last = std::min(first + panel_rows_, vectors_.size(0));
    for (int64_t row = first; row < last; ++row) {
      if (used_[size_t(2 * row)] == used_[size_t(2 * row + 1)]) continue;  // a zero vector
      begin = std::min(begin, used_[size_t(2 * row)]), end = std::max(end, used_[size_t(2 * row + 1)]);
    }
    panel.first_column = std::min(begin, end), panel.columns = std::max<int64_t>(end - begin, 0);
  }

  const char* op_;
  Tensor vectors_;
  ScalarType dtype_;  // of the arithmetic
  bool transpose_, on_cpu_;
  const HouseholderBackend& householder_;
  const SquareBackend& square_;
  LowRankRunner runner_;
  int64_t panels_ = 0, panel_rows_ = 0;
  Tensor units_, lengths_, s_;
  std::vector<int64_t> used_;
};

bool is_identity(const Tensor& x, const Tensor& vectors) { return x.numel() == 0 || vectors.size(0) == 0; }

Tensor fresh_copy(const Tensor& x) {
  Tensor copy = like(x);
  return torch::stable::copy_(copy, x);
}

Tensor householder_apply(const Tensor& x, const Tensor& vectors, bool transpose) {
  const char* op = "householder_apply";
  check_householder(op, x, vectors);
  if (is_identity(x, vectors)) return fresh_copy(x);
  return Reflections(op, x, vectors, transpose).apply(x);
}

std::tuple<Tensor, Tensor> householder_backward(const Tensor& grad, const Tensor& rows, const Tensor& vectors,
                                                bool transpose, bool of_result) {
  const char* op = "householder_backward";
  check_householder_backward(op, grad, rows, vectors);
  if (is_identity(grad, vectors)) return {fresh_copy(grad), torch::stable::fill_(like(vectors), 0)};
  return Reflections(op, grad, vectors, transpose).backward(grad, rows, of_result);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("householder_apply", &kernel_or_plain<TORCH_BOX(&householder_apply), "householder_apply">);
  m.impl("_householder_backward", &kernel_or_plain<TORCH_BOX(&householder_backward), "_householder_backward">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("householder_apply(Tensor x, Tensor vectors, *, bool transpose=False) -> Tensor");
  m.def(
      "_householder_backward(Tensor grad, Tensor rows, Tensor vectors, *, bool transpose, bool of_result) "
      "-> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::householder_cuda() != nullptr) lrk::binding::register_kernels(m);
}
