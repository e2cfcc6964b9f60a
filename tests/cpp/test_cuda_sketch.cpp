// The sketch family's CUDA kernels on the emulated device, so that the sanitizers and the checked mode see them: bases,
// decompositions, polar factors and bounds of matrices that are made from their singular values, against plain double
// loops. The library's products, which the kernels are given, are such loops too. On a GPU the same kernels are tested
// from Python.
#include "device_matrix.h"
#include "lrk/sketch_batched.h"
#if LRK_TEST_HAS_EMULATOR
#include "device/emulator/launch_count.h"
#endif

namespace {

using namespace lrk;
using namespace lrk::testing;
using Dense = std::vector<double>;  // row-major

constexpr double kRounding = 0x1p-24;

Dense transposed(const Dense& a, int64_t rows, int64_t cols) {
  Dense result(a.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) result[size_t(j * rows + i)] = a[size_t(i * cols + j)];
  return result;
}

/// a [rows, inner] b [inner, cols].
Dense product(const Dense& a, const Dense& b, int64_t rows, int64_t inner, int64_t cols) {
  Dense result(size_t(rows * cols), 0.0);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < inner; ++k)
      for (int64_t j = 0; j < cols; ++j)
        result[size_t(i * cols + j)] += a[size_t(i * inner + k)] * b[size_t(k * cols + j)];
  return result;
}

double norm(const Dense& a) {
  double sum = 0;
  for (const double value : a) sum += value * value;
  return std::sqrt(sum);
}

Dense difference(Dense a, const Dense& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

/// The largest entry of |qT q - I|, infinite of NaN.
double distance_from_orthonormal(const Dense& q, int64_t rows, int64_t cols) {
  const Dense gram = product(transposed(q, rows, cols), q, cols, rows, cols);
  double worst = 0;
  for (int64_t i = 0; i < cols; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const double distance = std::fabs(gram[size_t(i * cols + j)] - (i == j));
      worst = distance <= worst ? worst : std::isnan(distance) ? INFINITY : distance;
    }
  return worst;
}

/// Orthonormal columns, by Gram and Schmidt twice.
Dense random_basis(Random& random, int64_t rows, int64_t cols) {
  Dense columns(size_t(rows * cols));
  for (double& value : columns) value = random.value();
  for (int64_t j = 0; j < cols; ++j) {
    double* const x = &columns[size_t(j * rows)];
    for (int round = 0; round < 2; ++round) {
      double sum = 0;
      for (int64_t k = 0; k < j; ++k) {
        const double* const y = &columns[size_t(k * rows)];
        double shared = 0;
        for (int64_t i = 0; i < rows; ++i) shared += x[i] * y[i];
        for (int64_t i = 0; i < rows; ++i) x[i] -= shared * y[i];
      }
      for (int64_t i = 0; i < rows; ++i) sum += x[i] * x[i];
      for (int64_t i = 0; i < rows; ++i) x[i] /= std::sqrt(sum);
    }
  }
  return transposed(columns, cols, rows);
}

/// u diag(s) vT.
struct Decomposed {
  Dense u, s, v;
  int64_t rows, cols;

  Decomposed(Random& random, int64_t rows_, int64_t cols_, double decay, int64_t rank)
      : rows(rows_), cols(cols_) {
    const int64_t size = std::min(rows, cols);
    u = random_basis(random, rows, size), v = random_basis(random, cols, size);
    for (int64_t i = 0; i < size; ++i) s.push_back(i < rank ? std::pow(decay, double(i)) : 0.0);
  }
  Dense matrix(bool of_ones = false) const {
    const int64_t size = int64_t(s.size());
    Dense scaled = u;
    for (int64_t i = 0; i < rows && !of_ones; ++i)
      for (int64_t j = 0; j < size; ++j) scaled[size_t(i * size + j)] *= s[size_t(j)];
    return product(scaled, transposed(v, cols, size), rows, size, cols);
  }
};

const Device kEmulated{lowrank_cuda_emulated(), false};

/// `count` matrices with `gap` rows of NaN (or, `turned`, columns of memory) between them.
class StackOf {
 public:
  StackOf(DType dtype, int64_t count, int64_t rows, int64_t cols, int64_t gap = 0, bool turned = false, int padding = 0)
      : count_(count), rows_(rows), cols_(cols), line_((turned ? rows : cols) + padding),
        lines_((turned ? cols : rows) + gap), turned_(turned), dtype_(dtype),
        buffer_(kEmulated, size_t(std::max<int64_t>(1, count * lines_ * line_)) * size_of(dtype)) {}

  void set(int64_t n, const Dense& values) {
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j < cols_; ++j) encode(dtype_, buffer_.host(), at(n, i, j), values[size_t(i * cols_ + j)]);
  }
  Dense get(int64_t n) {
    Dense values;
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j < cols_; ++j) values.push_back(decode(dtype_, buffer_.host(), at(n, i, j)));
    return values;
  }
  MutableMatrices view() {
    const int64_t row_stride = turned_ ? 1 : line_, col_stride = turned_ ? line_ : 1;
    return {{buffer_.host(), dtype_, rows_, cols_, row_stride, col_stride}, count_, lines_ * line_};
  }

 private:
  int64_t at(int64_t n, int64_t i, int64_t j) const {
    return n * lines_ * line_ + (turned_ ? j * line_ + i : i * line_ + j);
  }

  int64_t count_, rows_, cols_, line_, lines_;
  bool turned_;
  DType dtype_;
  Buffer buffer_;
};

double element(const MatrixView& view, int64_t i, int64_t j) {
  const int64_t at = i * view.row_stride + j * view.col_stride;
  return view.dtype == DType::kFloat64 ? static_cast<const double*>(view.data)[at] : decode(view.dtype, view.data, at);
}

template <class View>
View matrix_at(View first, int64_t stride, int64_t n) {
  first.data = const_cast<char*>(static_cast<const char*>(first.data)) + n * stride * int64_t(size_of(first.dtype));
  return first;
}

Status multiply(const Matrices& a, const Matrices& b, const MutableMatrices& out) {
  for (int64_t n = 0; n < out.count; ++n) {
    const MatrixView left = matrix_at(a.first, a.stride, n), right = matrix_at(b.first, b.stride, n);
    const MutableMatrixView to = matrix_at(out.first, out.stride, n);
    for (int64_t i = 0; i < to.rows; ++i)
      for (int64_t j = 0; j < to.cols; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < left.cols; ++k) sum += element(left, i, k) * element(right, k, j);
        const int64_t at = i * to.row_stride + j * to.col_stride;
        if (to.dtype == DType::kFloat64)
          static_cast<double*>(to.data)[at] = sum;
        else
          static_cast<float*>(to.data)[at] = float(sum);
      }
  }
  return {};
}

int64_t launches() {
#if LRK_TEST_HAS_EMULATOR
  return emulator::launch_count();
#else
  return 0;
#endif
}

/// Runs an operation with the workspace of its plan, and once without memory: nothing may have been launched then.
/// Returns how many launches it took, or -1.
template <class Args>
int64_t run(const std::string& what, Plan (*plan_of)(const Args&, const Context&),
            Status (*operation)(const Args&, const Context&), const Args& args) {
  Workspaces workspaces(kEmulated);
  const Plan plan = plan_of(args, workspaces.context);
  const int64_t before = launches();
  if (plan.workspace_bytes > 0) {
    Context without_memory;
    without_memory.allocate = [](size_t) -> void* { return nullptr; };
    const Status refused = operation(args, without_memory);
    expect(refused.code == StatusCode::kOutOfMemory, what + ": takes no memory for its workspace");
    expect(launches() == before, what + ": launches before it knows that its memory is there");
  }
  const Status status = operation(args, workspaces.context);
  expect(status.ok(), what + ": " + status.message);
  expect(workspaces.bytes == plan.workspace_bytes, what + ": the workspace differs from the plan");
  return status.ok() ? launches() - before : -1;
}

const BatchedSketchBackend& kernels() { return *sketch_cuda_emulated(); }

// --- orthonormalize

void check_orthonormalize(const std::string& what, StackOf& a, const std::vector<Dense>& matrices, int64_t rows,
                          int64_t cols) {
  const int64_t count = int64_t(matrices.size()), size = std::min(rows, cols);
  for (int64_t n = 0; n < count; ++n) a.set(n, matrices[size_t(n)]);
  StackOf q(DType::kFloat32, count, rows, size), r(DType::kFloat32, count, size, cols, 1, false, 2);
  BatchedOrthonormalizeArgs args;
  args.a = a.view(), args.q = q.view(), args.r = r.view();
  if (run(what, kernels().plan_orthonormalize, kernels().orthonormalize, args) < 0) return;
  for (int64_t n = 0; n < count; ++n) {
    const std::string name = what + " matrix " + std::to_string(n);
    const Dense from = a.get(n), basis = q.get(n), triangle = r.get(n);
    if (std::isnan(norm(from)) || std::isinf(norm(from))) {
      expect(std::isnan(norm(basis)), name + ": numbers of what is not finite");
      continue;
    }
    const double distance = distance_from_orthonormal(basis, rows, size);
    expect(distance < 1e-6, name + ": " + std::to_string(distance) + " from orthonormal");
    const double error = norm(difference(from, product(basis, triangle, rows, size, cols)));
    expect(error <= 8 * kRounding * std::sqrt(double(size)) * norm(from), name + ": Q R is off by " + std::to_string(error));
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const double entry = triangle[size_t(i * cols + j)];
        expect(i == j ? entry >= 0 : entry == 0, name + ": R is no upper triangle of positive diagonal");
      }
  }
}

/// Integers, so that products of rank-deficient ones are exact and so is what depends on what.
Dense of_rank(Random& random, int64_t rows, int64_t cols, int64_t rank) {
  Dense left(size_t(rows * rank)), right(size_t(rank * cols));
  for (double& value : left) value = double(int64_t(random.bits() % 5) - 2);
  for (double& value : right) value = double(int64_t(random.bits() % 5) - 2);
  return product(left, right, rows, rank, cols);
}

void check_bases() {
  Random random(1);
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {70, 33}, {20, 50}, {150, 18}})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
      for (const bool turned : {false, true}) {
        if (turned && dtype != DType::kFloat32) continue;  // strides and dtypes do not meet in the kernels
        const std::string what = "orthonormalize " + std::to_string(rows) + "x" + std::to_string(cols) +
                                 (dtype == DType::kFloat32 ? " float32" : " bfloat16") + (turned ? " turned" : "");
        const int64_t size = std::min(rows, cols);
        std::vector<Dense> matrices{of_rank(random, rows, cols, size), of_rank(random, rows, cols, (size + 1) / 2),
                                    Dense(size_t(rows * cols), 0.0), Dense(size_t(rows * cols), 1.0)};
        Dense graded = of_rank(random, rows, cols, size), poisoned = graded;
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < cols; ++j) graded[size_t(i * cols + j)] *= std::pow(2.0, -double(3 * (i + j) % 40));
        poisoned[size_t(size - 1) / 2] = NAN;
        if (size > 1) matrices.push_back(graded), matrices.push_back(poisoned);
        StackOf a(dtype, int64_t(matrices.size()), rows, cols, 2, turned, 3);
        check_orthonormalize(what, a, matrices, rows, cols);
      }
  // Small matrices of every rank: random columns that take the place of dependent ones depend on others themselves.
  for (int64_t size = 1; size <= 9; ++size) {
    std::vector<Dense> matrices;
    for (int64_t rank = 0; rank < size; ++rank)
      for (int sample = 0; sample < 3; ++sample) matrices.push_back(of_rank(random, size, size, rank));
    StackOf a(DType::kFloat32, int64_t(matrices.size()), size, size);
    check_orthonormalize("orthonormalize squares of " + std::to_string(size), a, matrices, size, size);
  }
}

// --- Range finder and randomised SVD

double optimal_error(const Decomposed& a, int64_t rank) {
  double sum = 0;
  for (size_t i = size_t(rank); i < a.s.size(); ++i) sum += a.s[i] * a.s[i];
  return std::sqrt(sum);
}

struct RangeCase {
  int64_t count, rows, cols, rank, size, power_iters, gap;
  bool turned, warm;
  double decay;
  int64_t range_launches, rsvd_launches;  // -1: where long sums are cut, not looked at
};

void check_range(const RangeCase& test) {
  const std::string what = std::to_string(test.count) + " of " + std::to_string(test.rows) + "x" +
                           std::to_string(test.cols) + " basis " + std::to_string(test.size) + " steps " +
                           std::to_string(test.power_iters) + (test.turned ? " turned" : "") + (test.warm ? " warm" : "");
  Random random{uint64_t(test.rows * 31 + test.cols)};
  std::vector<Decomposed> matrices;
  StackOf a(DType::kFloat32, test.count, test.rows, test.cols, test.gap, test.turned);
  StackOf q0(DType::kFloat32, test.count, test.rows, test.rank, 1);
  for (int64_t n = 0; n < test.count; ++n) {
    matrices.emplace_back(random, test.rows, test.cols, test.decay, n == 1 ? test.rank : test.rows);
    a.set(n, matrices.back().matrix());
    const int64_t all = std::min(test.rows, test.cols);
    Dense first;
    for (int64_t i = 0; i < test.rows; ++i)
      for (int64_t j = 0; j < test.rank; ++j) first.push_back(matrices.back().u[size_t(i * all + j)]);
    q0.set(n, first);
  }
  StackOf q(DType::kFloat32, test.count, test.rows, test.size);
  BatchedRangeFinderArgs range;
  range.a = a.view(), range.power_iters = test.power_iters, range.seed = 5, range.product = multiply, range.q = q.view();
  if (test.warm) range.q0 = q0.view();
  const int64_t of_range = run("range_finder " + what, kernels().plan_range_finder, kernels().range_finder, range);
  if (test.range_launches >= 0)
    expect(of_range == test.range_launches, "range_finder " + what + ": " + std::to_string(of_range) + " launches");
  for (int64_t n = 0; n < test.count; ++n) {
    const Decomposed& from = matrices[size_t(n)];
    const Dense basis = q.get(n), matrix = from.matrix();
    expect(distance_from_orthonormal(basis, test.rows, test.size) < 1e-6, "range_finder " + what + ": not orthonormal");
    const Dense onto = product(transposed(basis, test.rows, test.size), matrix, test.size, test.rows, test.cols);
    const double error = norm(difference(matrix, product(basis, onto, test.rows, test.size, test.cols)));
    expect(error <= 1.1 * optimal_error(from, test.rank) + 16 * kRounding * norm(matrix),
           "range_finder " + what + ": misses " + std::to_string(error));
  }

  StackOf u(DType::kFloat32, test.count, test.rows, test.rank), v(DType::kFloat32, test.count, test.cols, test.rank),
      s(DType::kFloat32, 1, test.count, test.rank);
  BatchedRsvdArgs args;
  args.range = range, args.basis = test.size, args.u = u.view(), args.v = v.view();
  args.s = static_cast<float*>(s.view().first.data);
  const int64_t of_rsvd = run("rsvd " + what, kernels().plan_rsvd, kernels().rsvd, args);
  if (test.rsvd_launches >= 0)
    expect(of_rsvd == test.rsvd_launches, "rsvd " + what + ": " + std::to_string(of_rsvd) + " launches");
  const Dense values = s.get(0);
  for (int64_t n = 0; n < test.count; ++n) {
    const Decomposed& from = matrices[size_t(n)];
    const Dense left = u.get(n), right = v.get(n), matrix = from.matrix();
    expect(distance_from_orthonormal(left, test.rows, test.rank) < 2e-6, "rsvd " + what + ": u");
    expect(distance_from_orthonormal(right, test.cols, test.rank) < 2e-6, "rsvd " + what + ": v");
    Dense scaled = left;
    for (int64_t j = 0; j < test.rank; ++j) {
      const double value = values[size_t(n * test.rank + j)];
      expect(std::fabs(value - from.s[size_t(j)]) <= 0.05 * from.s[size_t(j)] + 16 * kRounding,
             "rsvd " + what + ": singular value " + std::to_string(j) + " is " + std::to_string(value));
      double largest = 0;
      for (int64_t i = 0; i < test.rows; ++i) {
        const double entry = left[size_t(i * test.rank + j)];
        if (std::fabs(entry) > std::fabs(largest)) largest = entry;
        scaled[size_t(i * test.rank + j)] *= value;
      }
      expect(largest > 0, "rsvd " + what + ": a sign");
    }
    const Dense approximation = product(scaled, transposed(right, test.cols, test.rank), test.rows, test.rank, test.cols);
    const double error = norm(difference(matrix, approximation));
    expect(error <= 1.1 * optimal_error(from, test.rank) + 16 * kRounding * norm(matrix),
           "rsvd " + what + ": misses " + std::to_string(error));
  }
}

void check_ranges() {
  // The counts that range_finder.cuh and rsvd.cu open with; stacks take no more, wherever their matrices lie.
  check_range({1, 60, 90, 6, 12, 1, 0, false, false, 0.6, 32, 65});
  check_range({3, 60, 90, 6, 12, 1, 0, false, false, 0.6, 32, 65});
  check_range({3, 60, 90, 6, 12, 1, 5, false, false, 0.6, 32, 65});
  check_range({2, 60, 90, 6, 12, 1, 5, true, false, 0.6, 32, 65});
  check_range({2, 40, 30, 5, 9, 0, 1, false, false, 0.3, 20, 53});  // from Gaussian columns
  check_range({2, 40, 30, 5, 9, 2, 0, true, false, 0.7, 44, 77});
  check_range({2, 60, 90, 6, 12, 0, 3, false, true, 0.5, 26, 59});  // and the basis of before, 6 launches
  check_range({2, 33, 33, 8, 33, 0, 1, false, true, 0.7, 26, 59});
  check_range({1, 20, 1100, 4, 6, 1, 0, false, false, 0.4, -1, -1});
}

// --- Polar factors and bounds

void check_polar(int64_t count, int64_t rows, int64_t cols, int64_t gap, bool turned, bool exact) {
  const std::string what = std::string(exact ? "polar exact " : "polar ") + std::to_string(count) + " of " +
                           std::to_string(rows) + "x" + std::to_string(cols) + (turned ? " turned" : "");
  Random random{uint64_t(rows * 7 + cols)};
  StackOf a(DType::kFloat32, count, rows, cols, gap, turned), out(DType::kFloat32, count, rows, cols, gap);
  BatchedPolarArgs args;
  args.a = a.view(), args.out = out.view(), args.exact = exact, args.product = multiply;
  if (!exact) args.coefficients = {3.4445, -4.7750, 2.0315, 1.5, -0.5, 0.0};
  std::vector<Decomposed> matrices;
  for (int64_t n = 0; n < count; ++n) {
    matrices.emplace_back(random, rows, cols, 0.9, rows);
    a.set(n, matrices.back().matrix());
  }
  run(what, kernels().plan_polar, kernels().polar, args);
  for (int64_t n = 0; n < count; ++n) {
    Decomposed& from = matrices[size_t(n)];
    Dense want;
    if (exact) {
      want = from.matrix(true);
    } else {  // what the steps make of the singular values
      const double length = norm(from.s);
      for (double& value : from.s) {
        value /= length;
        for (size_t k = 0; k < args.coefficients.size(); k += 3)
          value = args.coefficients[k] * value + args.coefficients[k + 1] * std::pow(value, 3) +
                  args.coefficients[k + 2] * std::pow(value, 5);
      }
      want = from.matrix();
    }
    double worst = 0;
    for (const double entry : difference(out.get(n), want)) worst = std::fabs(entry) <= worst ? worst : std::fabs(entry);
    expect(worst < 1e-5, what + ": off by " + std::to_string(worst));
  }
}

void check_bound(int64_t count, int64_t rows, int64_t cols, int64_t iters) {
  const std::string what = "spectral_norm_bound " + std::to_string(rows) + "x" + std::to_string(cols);
  Random random{uint64_t(rows * 7 + cols)};
  StackOf weight(DType::kFloat32, count, rows, cols, 1), bounds(DType::kFloat32, 1, 1, count);
  for (int64_t n = 0; n < count; ++n) weight.set(n, Decomposed(random, rows, cols, 0.8, rows).matrix());
  BatchedNormBoundArgs args;
  args.weight = weight.view(), args.iters = iters, args.product = multiply;
  args.bounds = static_cast<float*>(bounds.view().first.data);
  run(what, kernels().plan_spectral_norm_bound, kernels().spectral_norm_bound, args);
  const double most = std::pow(double(std::min(rows, cols)), std::pow(2.0, -double(iters + 2))) * (1 + 1e-6);
  for (const double bound : bounds.get(0))  // the matrices have norm 1, but for the rounding of their entries
    expect(bound >= 1 - 4 * kRounding && bound <= most, what + ": " + std::to_string(bound));
}

/// What kernels cannot count is refused before anything is launched.
void check_refusals() {
  const int64_t before = launches();
  Workspaces workspaces(kEmulated);
  StackOf a(DType::kFloat32, 1, 2, 2), q(DType::kFloat32, 1, 2, 2);
  BatchedRangeFinderArgs args;
  args.a = a.view(), args.q = q.view(), args.product = multiply;
  args.a.first.rows = args.a.first.cols = args.q.first.rows = args.q.first.cols = 5000;
  const Status status = kernels().range_finder(args, workspaces.context);
  expect(status.code == StatusCode::kUnsupported && status.message.find("range_finder: ") == 0,
         "range_finder of 5000 columns: " + status.message);
  BatchedPolarArgs exact;
  exact.a = args.a, exact.out = args.q, exact.exact = true, exact.product = multiply;
  expect(kernels().polar(exact, workspaces.context).code == StatusCode::kUnsupported, "polar of 5000 columns");
  expect(launches() == before, "a refused operation launches");
}

}  // namespace

int main() {
  if (sketch_cuda_emulated() == nullptr) {
    std::puts("skipped: this build has no emulator");
    return 0;
  }
  check_bases();
  check_ranges();
  for (const bool exact : {false, true}) {
    check_polar(3, 12, 30, 2, false, exact);
    check_polar(2, 30, 12, 0, true, exact);
    check_polar(1, 20, 20, 1, true, exact);
  }
  check_polar(2, 130, 131, 1, false, false);  // by products
  check_bound(3, 20, 31, 6);
  check_bound(1, 150, 140, 1);
  check_refusals();
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 && checks > 500 ? 0 : 1;
}
