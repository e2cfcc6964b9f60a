// The parts of the sketch family that no Python test can see alone: eigenvalues, small singular value decompositions
// and triangles in float64 against their definitions, which rung of the QR ladder a matrix needs, and work memory that
// is not initialised.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cpu/sketch/householder_qr.h"
#include "cpu/sketch/orthonormalize.h"
#include "cpu/sketch/sketch_matrix.h"
#include "cpu/sketch/small_dense.h"
#include "cpu/sketch/small_svd.h"
#include "cpu/sketch/tall_products.h"
#include "cpu/sketch/vector_loops.h"
#include "cpu_test.h"

namespace {

using namespace lrk;
using namespace lrk::testing;

/// The largest entry of |rows rowsT - I| of `count` rows.
double distance_from_orthonormal(const double* rows, int64_t count, int64_t length) {
  double worst = 0;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < length; ++k) sum += rows[i * length + k] * rows[j * length + k];
      worst = std::fmax(worst, std::fabs(sum - (i == j)));
      if (std::isnan(sum)) return INFINITY;
    }
  return worst;
}

Dense transposed(const Dense& a, int64_t rows, int64_t cols) {
  Dense result(a.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) result[size_t(j * rows + i)] = a[size_t(i * cols + j)];
  return result;
}

double norm(const Dense& a) {
  double sum = 0;
  for (const double value : a) sum += value * value;
  return std::sqrt(sum);
}

void check_eigen(const std::string& name, const Dense& a, int64_t size) {
  Dense vectors = a, values(size_t(size), 0.0), work(size_t(3 * size * size), std::numeric_limits<double>::quiet_NaN());
  expect(cpu::symmetric_eigen(vectors.data(), size, values.data(), work.data()), name + ": no convergence");
  expect(distance_from_orthonormal(vectors.data(), size, size) < 1e-13, name + ": vectors are not orthonormal");
  double worst = 0;
  for (int64_t k = 0; k < size; ++k) {
    for (int64_t i = 0; i < size; ++i) {
      double sum = -values[size_t(k)] * vectors[size_t(k * size + i)];
      for (int64_t j = 0; j < size; ++j) sum += a[size_t(i * size + j)] * vectors[size_t(k * size + j)];
      worst = std::fmax(worst, std::fabs(sum));
    }
    if (k > 0) expect(values[size_t(k)] <= values[size_t(k - 1)], name + ": values do not descend");
  }
  expect(worst <= 1e-14 * double(size) * norm(a), name + ": not an eigenvector, by " + std::to_string(worst));
}

void check_eigenvalues() {
  for (const int64_t size : {1, 2, 3, 17, 64, 150}) {
    const std::string name = "eigen " + std::to_string(size);
    Dense a = random(size * size, uint64_t(size));
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < i; ++j) a[size_t(i * size + j)] = a[size_t(j * size + i)];
    check_eigen(name, a, size);
    check_eigen(name + " zero", Dense(size_t(size * size), 0.0), size);
    check_eigen(name + " ones", Dense(size_t(size * size), 1.0), size);
    Dense diagonal(size_t(size * size), 0.0), graded = a;
    for (int64_t i = 0; i < size; ++i) diagonal[size_t(i * size + i)] = double(i % 3);
    check_eigen(name + " diagonal", diagonal, size);
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j) graded[size_t(i * size + j)] *= std::pow(10.0, -double(i + j) / 4);
    check_eigen(name + " graded", graded, size);
  }
}

void check_svd(const std::string& name, const Dense& a, int64_t size) {
  TestContext test;
  const MatrixProduct own;
  cpu::Workbench bench(test.context, own);
  Dense left(size_t(size * size)), right = left, values(static_cast<size_t>(size));
  const Status status = cpu::small_svd(bench, a.data(), size, 0x1p-50, left.data(), values.data(), right.data());
  expect(status.ok(), name + ": " + status.message);
  expect(distance_from_orthonormal(left.data(), size, size) < 1e-12, name + ": left vectors");
  expect(distance_from_orthonormal(right.data(), size, size) < 1e-12, name + ": right vectors");
  Dense difference = a;
  for (int64_t k = 0; k < size; ++k) {
    const double* const row = right.data() + k * size;
    expect(values[size_t(k)] >= 0 && (k == 0 || values[size_t(k)] <= values[size_t(k - 1)]), name + ": order");
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j)
        difference[size_t(i * size + j)] -= left[size_t(k * size + i)] * values[size_t(k)] * row[j];
  }
  double largest = 0, worst = 0;
  for (const double value : a) largest = std::fmax(largest, std::fabs(value));
  for (const double value : difference) worst = std::fmax(worst, std::fabs(value));
  expect(worst <= 1e-14 * double(size) * largest, name + ": the factors' product is off");
}

void check_small_svds() {
  for (const int64_t size : {1, 2, 9, 40, 96}) {
    const std::string name = "svd " + std::to_string(size);
    const Dense a = random(size * size, uint64_t(100 + size));
    check_svd(name, a, size);
    check_svd(name + " zero", Dense(size_t(size * size), 0.0), size);
    check_svd(name + " ones", Dense(size_t(size * size), 1.0), size);
    for (const double step : {0.5, 4.0, 30.0}) {
      Dense graded = a, tiny = a;
      for (int64_t i = 0; i < size; ++i)
        for (int64_t j = 0; j < size; ++j)
          graded[size_t(i * size + j)] *= std::pow(10.0, -std::fmin(step * double(j), 290));
      check_svd(name + " graded", graded, size);
      for (double& value : tiny) value *= std::pow(10.0, -9 * step);
      check_svd(name + " tiny", tiny, size);
    }
  }
}

void check_triangle(int64_t rows, int64_t cols, bool deficient) {
  Dense columns = random(cols * rows, 7), r(size_t(cols * cols));
  if (deficient) {
    std::fill_n(columns.begin() + 3 * rows, rows, 0.0);
    std::copy_n(columns.begin(), rows, columns.begin() + 8 * rows);
  }
  const Dense before = columns;
  TestContext test;
  const MatrixProduct own;
  cpu::Workbench bench(test.context, own);
  expect(cpu::householder_qr(bench, columns.data(), rows, cols, r.data()).ok(), "householder_qr");
  expect(distance_from_orthonormal(columns.data(), cols, rows) < 1e-14, "householder_qr: not orthonormal");
  double worst = 0;
  for (int64_t j = 0; j < cols; ++j) {
    expect(r[size_t(j * cols + j)] >= 0, "householder_qr: a negative diagonal");
    for (int64_t i = 0; i < rows; ++i) {
      double sum = -before[size_t(j * rows + i)];
      for (int64_t k = 0; k <= j; ++k) sum += columns[size_t(k * rows + i)] * r[size_t(k * cols + j)];
      worst = std::fmax(worst, std::fabs(sum));
    }
  }
  expect(worst < 1e-13, "householder_qr: Q R is off by " + std::to_string(worst));
  if (deficient || rows < 2 * cols) return;  // a square random matrix is too near a singular one
  // The triangle again, from the Gram matrix; and its inverse.
  Dense gram(size_t(cols * cols), 0.0), inverse = gram;
  for (int64_t i = 0; i < cols; ++i)
    for (int64_t j = 0; j < cols; ++j)
      gram[size_t(i * cols + j)] = cpu::vector_loops().dot(before.data() + i * rows, before.data() + j * rows, rows);
  const double pivot = cpu::cholesky(gram.data(), cols, 1e-10);
  expect(pivot > 1e-3 && pivot <= 1, "cholesky: the smallest pivot");
  for (size_t i = 0; i < gram.size(); ++i) expect(std::fabs(gram[i] - r[i]) < 1e-12, "cholesky: another triangle");
  cpu::invert_upper(gram.data(), cols, inverse.data());
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      double product = 0;
      for (int64_t k = 0; k < cols; ++k) product += gram[size_t(i * cols + k)] * inverse[size_t(k * cols + j)];
      expect(std::fabs(product - (i == j)) < 1e-12, "invert_upper");
    }
  }
}

void check_triangles() {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{30, 12}, {40, 32}, {33, 33}, {90, 75}, {150, 70}})
    for (const bool deficient : {false, true}) check_triangle(rows, cols, deficient);
  for (const double bad : {0.0, -1.0, 1e-14, double(NAN), double(INFINITY)}) {
    Dense gram{1, 0, 0, bad == 1e-14 ? 1.0 : bad};
    if (bad == 1e-14) gram[1] = gram[2] = std::sqrt(1 - bad);  // nearly the same column twice
    expect(cpu::cholesky(gram.data(), 2, 1e-11) == 0, "cholesky takes a pivot of " + std::to_string(bad));
  }
}

/// Which rung makes the columns orthonormal, of a matrix whose columns lean towards the first by `angle`.
void check_ladder(int64_t rows, double angle, cpu::QrRung expected, const char* name, int64_t cols = 20) {
  Dense q = random(rows * cols, 11);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 1; j < cols; ++j) q[size_t(i * cols + j)] = q[size_t(i * cols)] + angle * q[size_t(i * cols + j)];
  const Dense before = q;
  Dense r(size_t(cols * cols));
  TestContext test;
  const MatrixProduct own;
  cpu::Workbench bench(test.context, own);
  cpu::QrRung rung{};
  const Status status = cpu::orthonormalize<double>(bench, q.data(), rows, cols, r.data(), &rung);
  expect(status.ok() && rung == expected, std::string(name) + ": on rung " + std::to_string(int(rung)));
  expect(distance_from_orthonormal(transposed(q, rows, cols).data(), cols, rows) < 1e-13, std::string(name) + ": q");
  double worst = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      double sum = -before[size_t(i * cols + j)];
      for (int64_t k = 0; k <= j; ++k) sum += q[size_t(i * cols + k)] * r[size_t(k * cols + j)];
      worst = std::fmax(worst, std::fabs(sum));
    }
  expect(worst < 1e-13, std::string(name) + ": q r is off by " + std::to_string(worst));
}

void check_sparse_rows() {
  for (const int64_t size : {1, 5, 8, 9, 64}) {
    for (int64_t row = 0; row < 200; ++row) {
      int64_t columns[kSparseSigns];
      bool negative[kSparseSigns];
      const int64_t count = sparse_sign_row(3, row, size, columns, negative);
      expect(count == std::min<int64_t>(8, size), "sparse_sign_row: how many");
      for (int64_t i = 0; i < count; ++i) {
        expect(columns[i] >= 0 && columns[i] < size, "sparse_sign_row: a column out of range");
        for (int64_t j = 0; j < i; ++j) expect(columns[i] != columns[j], "sparse_sign_row: a column twice");
      }
    }
  }
}

/// Each product of tall matrices against its definition, in float64, of entries that T holds exactly.
template <class T>
void check_tall_products() {
  const MatrixProduct own;
  for (const int64_t rows : {1, 15, 64, 65, 300}) {
    for (const int64_t cols : {1, 4, 16, 33, 70, 520}) {
      const std::string name = std::to_string(rows) + " x " + std::to_string(cols);
      TestContext test;
      cpu::Workbench bench(test.context, own);
      const double rounding = 4 * double(cols) * std::numeric_limits<T>::epsilon();  // of sums of so many terms
      std::vector<T> x;
      for (const double value : random(rows * cols, uint64_t(rows + cols))) x.push_back(T(value));
      const auto at = [&](int64_t i, int64_t j) { return double(x[size_t(i * cols + j)]); };

      Dense gram(size_t(cols * cols), NAN);
      expect(cpu::gram_matrix<T>(bench, x.data(), rows, cols, gram.data()).ok(), name + ": gram_matrix");
      double worst = 0;
      for (int64_t i = 0; i < cols; ++i)
        for (int64_t j = 0; j < cols; ++j) {
          double sum = -gram[size_t(i * cols + j)];
          for (int64_t k = 0; k < rows; ++k) sum += at(k, i) * at(k, j);
          worst = std::isnan(sum) ? INFINITY : std::fmax(worst, std::fabs(sum));
        }
      expect(worst < 1e-12, name + ": gram_matrix is off by " + std::to_string(worst));

      Dense upper = random(cols * cols, 5);  // what is below the diagonal is not to be read
      for (int64_t i = 0; i < cols; ++i)
        for (int64_t j = 0; j < cols; ++j)
          upper[size_t(i * cols + j)] = j < i ? NAN : double(T(upper[size_t(i * cols + j)]));
      std::vector<T> product = x;
      if (cols <= 512) {
        expect(cpu::multiply_by_upper<T>(bench, product.data(), rows, cols, upper.data()).ok(), name + ": by upper");
        worst = 0;
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < cols; ++j) {
            double sum = -double(product[size_t(i * cols + j)]);
            for (int64_t k = 0; k <= j; ++k) sum += at(i, k) * upper[size_t(k * cols + j)];
            worst = std::isnan(sum) ? INFINITY : std::fmax(worst, std::fabs(sum));
          }
        expect(worst < rounding, name + ": multiply_by_upper is off by " + std::to_string(worst));
      }

      for (const int64_t size : {3, 40}) {
        for (const bool turned : {false, true}) {
          const MatrixView a = turned ? cpu::view_of<T>(x.data(), cols, rows).transposed()
                                      : cpu::view_of<T>(x.data(), rows, cols);
          std::vector<T> omega(size_t(cols * size), T(NAN)), y(size_t(rows * size), T(NAN));
          SketchMatrixArgs args;
          args.kind = SketchKind::kSparseSign, args.seed = 9, args.matrix = cpu::view_of(omega.data(), cols, size);
          cpu::fill_sketch_matrix<T>(args, test.context);
          expect(cpu::multiply_by_sparse_signs<T>(bench, a, 9, size, 1.0, cpu::view_of(y.data(), rows, size)).ok(), name + ": by sparse signs");
          worst = 0;
          for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < size; ++j) {
              double sum = -double(y[size_t(i * size + j)]);
              for (int64_t k = 0; k < cols; ++k)
                sum += double(x[size_t(i * a.row_stride + k * a.col_stride)]) * double(omega[size_t(k * size + j)]);
              worst = std::isnan(sum) ? INFINITY : std::fmax(worst, std::fabs(sum));
            }
          expect(worst < rounding, name + ": multiply_by_sparse_signs is off by " + std::to_string(worst));
        }
      }
    }
  }
}

/// A basis of before leaves only the columns beyond it to a random start, which takes additions and no product.
void check_warm_start() {
  const int64_t rows = 90, cols = 150, size = 12, warm = 5;
  std::vector<float> a, q0(size_t(rows * warm), 0.0f), q(size_t(rows * size)), cold = q;
  for (const double value : random(rows * cols, 21)) a.push_back(float(value));
  for (int64_t j = 0; j < warm; ++j) q0[size_t(j * warm + j)] = 1;
  TestContext test;
  RangeFinderArgs args;
  args.a = cpu::view_of<float>(static_cast<const float*>(a.data()), rows, cols);
  args.power_iters = 0, args.seed = 3;
  int64_t widest = 0;
  args.product = [&](const MatrixView& left, const MatrixView& right, const MutableMatrixView& out) {
    if (left.data == args.a.data) widest = std::max(widest, out.cols);
    LinearArgs product;
    product.s = left, product.up = right.transposed(), product.y = out;
    return lowrank_cpu().linear(product, test.context);
  };
  args.q = cpu::view_of(cold.data(), rows, size);
  expect(sketch_cpu().range_finder(args, test.context).ok() && widest == 0, "a cold start multiplies");
  args.q0 = cpu::view_of<float>(static_cast<const float*>(q0.data()), rows, warm);
  args.q = cpu::view_of(q.data(), rows, size);
  expect(sketch_cpu().range_finder(args, test.context).ok(), "a warm start");
  expect(widest == warm, "a warm start multiplies A by " + std::to_string(widest) + " columns");
  Dense columns(size_t(rows * size));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < size; ++j) columns[size_t(j * rows + i)] = double(q[size_t(i * size + j)]);
  expect(distance_from_orthonormal(columns.data(), size, rows) < 1e-6, "a warm start: not orthonormal");
  // Behind the warm columns lies A times the first columns of Omega: A Omega's projection onto q is itself.
  std::vector<float> first(size_t(rows * size));
  const MatrixProduct own;
  cpu::Workbench bench(test.context, own);
  expect(cpu::multiply_by_sparse_signs<float>(bench, args.a, 3, size, 1.0, cpu::view_of(first.data(), rows, size)).ok(),
         "A Omega");
  for (int64_t j = 0; j < size - warm; ++j) {
    Dense rest(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) rest[size_t(i)] = double(first[size_t(i * size + j)]);
    const double whole = norm(rest);
    for (int64_t k = 0; k < size; ++k) {
      const double* const column = columns.data() + k * rows;
      const double shared = cpu::vector_loops().dot(column, rest.data(), rows);
      cpu::vector_loops().add_scaled(rest.data(), -shared, column, rows);
    }
    expect(norm(rest) < 1e-5 * whole, "a warm start lacks column " + std::to_string(j) + " of A Omega");
  }
}

/// A basis between two products: no column lost, and well conditioned, whatever the matrix is.
void check_normalize() {
  const int64_t rows = 200, cols = 12;
  const MatrixProduct own;
  for (const double angle : {1.0, 1e-3, 1e-5}) {
    std::vector<float> q;
    for (const double value : random(rows * cols, 3)) q.push_back(float(value));
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 1; j < cols; ++j)
        q[size_t(i * cols + j)] = float(q[size_t(i * cols)] + angle * q[size_t(i * cols + j)]);
    TestContext test;
    cpu::Workbench bench(test.context, own);
    expect(cpu::normalize<float>(bench, q.data(), rows, cols).ok(), "normalize");
    Dense columns(size_t(rows * cols));
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j) columns[size_t(j * rows + i)] = double(q[size_t(i * cols + j)]);
    const double distance = distance_from_orthonormal(columns.data(), cols, rows);
    expect(distance < 0.2, "normalize: " + std::to_string(distance) + " from orthonormal");
  }
}

}  // namespace

int main() {
  check_tall_products<float>();
  check_tall_products<double>();
  check_normalize();
  check_warm_start();
  check_eigenvalues();
  check_small_svds();
  check_triangles();
  check_ladder(400, 1.0, cpu::QrRung::kGram, "well conditioned");
  check_ladder(400, 1e-3, cpu::QrRung::kGram, "leaning");
  check_ladder(400, 1e-8, cpu::QrRung::kSketch, "ill conditioned");
  check_ladder(400, 0.0, cpu::QrRung::kSketch, "of rank one");
  check_ladder(30, 1e-8, cpu::QrRung::kHouseholder, "ill conditioned and short");
  check_ladder(20, 0.0, cpu::QrRung::kHouseholder, "square and of rank one");
  check_ladder(200, 1.0, cpu::QrRung::kHouseholder, "well conditioned and squat", 150);
  check_sparse_rows();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 1000 ? 0 : 1;
}
