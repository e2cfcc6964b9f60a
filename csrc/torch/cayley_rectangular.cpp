// torch.ops.lrk.cayley_rectangular: registration, and the map as products and an inverse made of products.
//
// Of weight = [U; V], U square, with A = U - UT + VT V and Z = (I + A)^-1:
//   Q = [(I + A)^-1 (I - A); -2 V Z] = [2 Z - I; -2 V Z],
// one product less than its definition. The symmetric part of I + A is I + VT V, so every leading block and every Schur
// complement of it has one that is no smaller than I, and none needs a pivot. Backward, with Q's gradient [G1; G2]:
//   E = [G1; G2] ZT,  P = 2 E1 - 2 VT E2,  dA = -ZT P,  dU = dA - dAT,  dV = -2 E2 + V (dA + dAT).
// A wide weight is the transpose of a tall one, by strides.
//
// A stack of weights is a loop over them: n matrices are n times the launches of one. On CUDA those are about 20 beside
// the inverse, whose number is 1 up to 64 columns and 6 more than twice that of half the columns beyond: 106 for 1024. So
// a stack of many small matrices is bound by launches, some microseconds each, where cayley inverts them in one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include "lrk/square.h"
#include "torch/cayley_rectangular_checks.h"
#include "torch/inspection.h"
#include "torch/lowrank.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

/// Of an inverse, down to which size it is cut into blocks.
constexpr int64_t kSmallInverse = 64;
static_assert(kSmallInverse <= kMostInvertedRows);

/// A plan does not look at the numbers, which decide about the steps on the CPU.
constexpr const char* kStepsMayFollow = "; Newton and Newton-Schulz steps follow where the result asks for them";

/// A wide matrix as the tall one that it is the transpose of.
Tensor tall(const Tensor& matrix) { return matrix.size(0) < matrix.size(1) ? aten_transpose(matrix) : matrix; }

class RectangularCayley {
 public:
  RectangularCayley(const char* op, const Tensor& weight)
      : op_(op),
        like_(weight),
        dtype_(wider(weight.scalar_type(), ScalarType::Float)),
        on_cpu_(!weight.is_cuda() && !emulating()),
        square_(backend_for(op, weight, square_cpu(), square_cuda(), square_cuda_emulated())),
        runner_(op, weight, weight) {}

  /// Q and Z of a tall weight, into Q (weight's dtype) and Z.
  void forward(const Tensor& weight, const Tensor& q, const Tensor& z) {
    const int64_t cols = weight.size(1), rest = weight.size(0) - cols;
    const Tensor v = torch::stable::to(rows_of(weight, cols, rest), dtype_);
    const auto assemble = [&](const Tensor& system) {
      mirror_sum(rows_of(weight, 0, cols), 1.0, -1.0, 1.0, system);
      if (rest > 0) runner_.product(system, system, aten_transpose(v), v, 1.0);
    };
    assemble(z);
    invert(z);
    const Tensor exact = q.scalar_type() == dtype_ ? q : wide(weight.size(0), cols);
    const auto map = [&] {
      mirror_sum(z, 2.0, 0.0, -1.0, rows_of(exact, 0, cols), on_cpu_ ? kStepsMayFollow : "");
      if (rest > 0) runner_.product(rows_of(exact, cols, rest), std::nullopt, v, z, -2.0);
    };
    map();
    // Without pivots the error of Z grows with the square of A's norm (of 1024 columns in float32 QT Q - I has 2e-6 up to
    // a norm of 3, 7e-6 at 10, 4e-3 at 300). A step squares the error. The CPU takes as many as Q needs; a device cannot
    // be asked without waiting for it, so there it is one of either kind, enough for norms up to 1000.
    for (int step = 0; step < (on_cpu_ ? 2 : 1) && wants_a_step(exact); ++step) {
      const Tensor system = wide(cols, cols);
      assemble(system);
      refine(z, system);
      map();
    }
    for (int step = 0; step < (on_cpu_ ? 2 : 1) && wants_a_step(exact); ++step) polish(exact);
    if (q.scalar_type() != dtype_) copy(q, exact);
  }

  /// dweight of a tall weight.
  void backward(const Tensor& grad, const Tensor& weight, const Tensor& z, const Tensor& dweight) {
    const int64_t cols = weight.size(1), rest = weight.size(0) - cols;
    const Tensor g = torch::stable::to(grad, dtype_), v = torch::stable::to(rows_of(weight, cols, rest), dtype_);
    const Tensor transposed = aten_transpose(z), da = wide(cols, cols), p = wide(cols, cols);
    const bool exact = dweight.scalar_type() == dtype_;
    const Tensor dv = exact ? rows_of(dweight, cols, rest) : wide(rest, cols);
    runner_.product(p, std::nullopt, rows_of(g, 0, cols), transposed, 2.0);
    if (rest > 0) {
      runner_.product(dv, std::nullopt, rows_of(g, cols, rest), transposed, -2.0);
      runner_.product(p, p, aten_transpose(v), dv, 1.0);
    }
    runner_.product(da, std::nullopt, transposed, p, -1.0);
    mirror_sum(da, 1.0, -1.0, 0.0, rows_of(dweight, 0, cols));
    if (rest == 0) return;
    const Tensor symmetric = p;  // no longer needed
    mirror_sum(da, 1.0, 1.0, 0.0, symmetric);
    runner_.product(dv, dv, v, symmetric, 1.0);
    if (!exact) copy(rows_of(dweight, cols, rest), dv);
  }

 private:
  static Tensor rows_of(const Tensor& matrix, int64_t first, int64_t count) {
    return count == matrix.size(0) ? matrix : slice(matrix, 0, first, count);
  }
  Tensor wide(int64_t rows, int64_t cols) const { return empty({rows, cols}, dtype_, like_); }
  void copy(Tensor to, const Tensor& from) const { torch::stable::copy_(to, from); }

  /// `remark` is what explain() says of it besides.
  void mirror_sum(const Tensor& a, double alpha, double beta, double gamma, const Tensor& out, const char* remark = "") {
    MirrorSumArgs args;
    args.a = matrix_view(a), args.out = mutable_view(out);
    args.alpha = alpha, args.beta = beta, args.gamma = gamma;
    if (planning()) {
      Plan plan = square_.plan_mirror_sum(args, runner_.context());
      plan.reason += remark;
      return add_plan("mirror_sum", plan);
    }
    run(op_, "mirror_sum", square_.plan_mirror_sum, square_.mirror_sum, args, runner_.context());
  }

  /// In place: with the matrix cut into [A B; C D] and S = D - C A^-1 B, the blocks of the inverse are
  ///   [A^-1 + A^-1 B S^-1 C A^-1, -A^-1 B S^-1; -S^-1 C A^-1, S^-1].
  void invert(const Tensor& matrix) {
    const int64_t size = matrix.size(0);
    if (size <= kSmallInverse) {
      InvertArgs args;
      args.matrices = matrix_view(matrix), args.inverses = mutable_view(matrix);
      run(op_, "invert", square_.plan_invert, square_.invert, args, runner_.context());
      return;
    }
    const int64_t first = (size / 2 + 15) / 16 * 16, second = size - first;  // whole vectors
    const auto block = [&](bool low, bool right) {
      return slice(slice(matrix, 0, low ? first : 0, low ? second : first), 1, right ? first : 0,
                   right ? second : first);
    };
    const Tensor a = block(false, false), b = block(false, true), c = block(true, false), d = block(true, true);
    const Tensor left = wide(second, first), right = wide(first, second);
    invert(a);
    runner_.product(left, std::nullopt, c, a, 1.0);
    runner_.product(d, d, left, b, -1.0);
    invert(d);
    runner_.product(right, std::nullopt, a, b, 1.0);
    runner_.product(b, std::nullopt, right, d, -1.0);
    runner_.product(c, std::nullopt, d, left, -1.0);
    runner_.product(a, a, right, c, -1.0);
  }

  /// Newton's step for an inverse, Z + Z (I - B Z). What it improves the gradient has, too.
  void refine(const Tensor& z, const Tensor& system) {
    const int64_t size = z.size(0);
    const Tensor product = wide(size, size), residual = wide(size, size), before = wide(size, size);
    runner_.product(product, std::nullopt, system, z, 1.0);
    mirror_sum(product, -1.0, 0.0, 1.0, residual);
    copy(before, z);
    runner_.product(z, before, before, residual, 1.0);
  }

  /// A Newton-Schulz step, Q (3/2 I - QT Q / 2): the orthogonal matrix nearby. It is not differentiated.
  void polish(const Tensor& q) {
    const int64_t rows = q.size(0), cols = q.size(1);
    const Tensor gram = wide(cols, cols), factor = wide(cols, cols), before = wide(rows, cols);
    runner_.product(gram, std::nullopt, aten_transpose(q), q, 1.0);
    mirror_sum(gram, -0.5, 0.0, 1.5, factor);
    copy(before, q);
    runner_.product(q, std::nullopt, before, factor, 1.0);
  }

  bool wants_a_step(const Tensor& q) {
    if (!on_cpu_) return true;
    return !planning() && (dtype_ == ScalarType::Double ? is_far<double>(q) : is_far<float>(q));
  }

  /// Whether ||QT Q - I|| is above the roundings of a well-conditioned map, by two steps of the power method from a few
  /// vectors of signs. They see a part of it: half as a rule, a third where one direction alone is far off.
  template <class T>
  bool is_far(const Tensor& q) {
    constexpr int64_t kVectors = 8;
    constexpr T kRoundings = 26;  // 3.1e-6 of float32, where well-conditioned maps of 1024 columns have 2e-6
    const int64_t rows = q.size(0), cols = q.size(1);
    Tensor vectors = wide(cols, kVectors), next = wide(cols, kVectors);
    const Tensor image = wide(rows, kVectors);
    T* signs = static_cast<T*>(vectors.mutable_data_ptr());
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (int64_t i = 0; i < cols * kVectors; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;  // xorshift64
      signs[i] = state >> 63 ? T(1) : T(-1);
    }
    T growth = 0;
    for (int step = 0; step < 2; ++step) {
      runner_.product(image, std::nullopt, q, vectors, 1.0);
      runner_.product(next, std::nullopt, aten_transpose(q), image, 1.0);
      growth = subtract_and_normalize(static_cast<const T*>(vectors.const_data_ptr()),
                                      static_cast<T*>(next.mutable_data_ptr()), cols, kVectors);
      std::swap(vectors, next);
    }
    return growth > kRoundings * std::numeric_limits<T>::epsilon();  // of NaN not: nothing helps it
  }

  /// next -= vectors, and its columns become unit vectors. Returns the largest growth of a column.
  template <class T>
  static T subtract_and_normalize(const T* vectors, T* next, int64_t rows, int64_t count) {
    T most = 0;
    for (int64_t j = 0; j < count; ++j) {
      T before = 0, after = 0;
      for (int64_t i = 0; i < rows; ++i) {
        T& value = next[i * count + j];
        const T old = vectors[i * count + j];
        value -= old, before += old * old, after += value * value;
      }
      const T norm = std::sqrt(after);
      most = std::max(most, norm / std::sqrt(before));
      for (int64_t i = 0; norm > 0 && i < rows; ++i) next[i * count + j] /= norm;
    }
    return most;
  }

  const char* op_;
  Tensor like_;
  ScalarType dtype_;  // of the arithmetic
  bool on_cpu_;
  const SquareBackend& square_;
  LowRankRunner runner_;
};

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

/// [..., rows, cols] as [count, rows, cols].
Tensor stack_of(const Tensor& tensor) {
  const int64_t dims = tensor.dim();
  int64_t count = 1;
  for (int64_t i = 0; i + 2 < dims; ++i) count *= tensor.size(i);
  return torch::stable::reshape(tensor, {count, tensor.size(dims - 2), tensor.size(dims - 1)});
}

Tensor matrix_at(const Tensor& stack, int64_t index) { return torch::stable::select(stack, 0, index); }

std::tuple<Tensor, Tensor> cayley_rectangular_saving(const Tensor& weight) {
  const char* op = "cayley_rectangular";
  check_cayley_rectangular(op, weight);
  const int64_t dims = weight.dim(), size = std::min(weight.size(dims - 2), weight.size(dims - 1));
  std::vector<int64_t> sizes = sizes_of(weight);
  sizes[size_t(dims - 1)] = sizes[size_t(dims - 2)] = size;
  const Tensor q = like(weight), inverse = empty(sizes, wider(weight.scalar_type(), ScalarType::Float), weight);
  if (weight.numel() == 0) return {q, inverse};
  RectangularCayley map(op, weight);
  const Tensor weights = stack_of(weight), qs = stack_of(q), inverses = stack_of(inverse);
  for (int64_t index = 0; index < weights.size(0); ++index)
    map.forward(tall(matrix_at(weights, index)), tall(matrix_at(qs, index)), matrix_at(inverses, index));
  return {q, inverse};
}

Tensor cayley_rectangular(const Tensor& weight) { return std::get<0>(cayley_rectangular_saving(weight)); }

Tensor cayley_rectangular_backward(const Tensor& grad, const Tensor& weight, const Tensor& inverse) {
  const char* op = "cayley_rectangular_backward";
  check_cayley_rectangular_backward(op, grad, weight, inverse);
  const Tensor dweight = like(weight);
  if (weight.numel() == 0) return dweight;
  RectangularCayley map(op, weight);
  const Tensor grads = stack_of(grad), weights = stack_of(weight), inverses = stack_of(inverse),
               dweights = stack_of(dweight);
  for (int64_t index = 0; index < weights.size(0); ++index)
    map.backward(tall(matrix_at(grads, index)), tall(matrix_at(weights, index)), matrix_at(inverses, index),
                 tall(matrix_at(dweights, index)));
  return dweight;
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("cayley_rectangular", &kernel_or_plain<TORCH_BOX(&cayley_rectangular), "cayley_rectangular">);
  m.impl("_cayley_rectangular_saving",
         &kernel_or_plain<TORCH_BOX(&cayley_rectangular_saving), "_cayley_rectangular_saving">);
  m.impl("_cayley_rectangular_backward",
         &kernel_or_plain<TORCH_BOX(&cayley_rectangular_backward), "_cayley_rectangular_backward">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("cayley_rectangular(Tensor weight) -> Tensor");
  m.def("_cayley_rectangular_saving(Tensor weight) -> (Tensor, Tensor)");
  m.def("_cayley_rectangular_backward(Tensor grad, Tensor weight, Tensor inverse) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::square_cuda() != nullptr) lrk::binding::register_kernels(m);
}
