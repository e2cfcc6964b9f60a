#include "cpu/sketch/orthonormalize.h"

#include <cmath>
#include <limits>

#include "cpu/sketch/householder_qr.h"
#include "cpu/sketch/sketch_matrix.h"
#include "cpu/sketch/small_dense.h"
#include "cpu/sketch/tall_products.h"
#include "cpu/sketch/vector_loops.h"
#include "device/sketch_rules.h"

namespace lrk::cpu {
namespace {

/// A bound of |R^-1| (of unit columns) up to which a pass leaves as much of orthogonality as there is to have.
constexpr double kMostSpread = 4;
/// How often roundings may be in A - Q R beside those of A, where a triangle is wanted.
constexpr double kMostGrowth = 32;
constexpr int kMostPasses = 4;

constexpr uint64_t kPreconditionerSeed = 0x6c726b2073715231u;  // any number

template <class T>
class ColumnQr {
 public:
  ColumnQr(Workbench& bench, T* q, int64_t rows, int64_t cols, bool want_r)
      : bench_(bench), q_(q), rows_(rows), cols_(cols), want_r_(want_r), square_(cols * cols) {}

  Status run(double* r, QrRung* rung) {
    const Scratch::Frame frame(bench_.scratch);
    original_ = want_r_ ? bench_.scratch.take<T>(rows_ * cols_) : nullptr;
    gram_ = bench_.scratch.take<double>(square_), inverse_ = bench_.scratch.take<double>(square_);
    exponents_ = bench_.scratch.take<int>(cols_);
    weights_ = bench_.scratch.take<double>(2 * cols_);
    largest_ = bench_.scratch.take<T>(cols_);
    if (bench_.scratch.failed()) return bench_.scratch.failure("orthonormalize");
    if (!scale_columns()) {  // NaN or Inf: nothing here is a basis
      std::fill_n(q_, rows_ * cols_, std::numeric_limits<T>::quiet_NaN());
      for (int64_t i = 0; i < cols_ && want_r_; ++i) {
        std::fill_n(r + i * cols_, i, 0.0);
        std::fill_n(r + i * cols_ + i, cols_ - i, std::numeric_limits<double>::quiet_NaN());
      }
      if (rung != nullptr) *rung = QrRung::kGram;
      return {};
    }
    if (want_r_) std::copy_n(q_, rows_ * cols_, original_);

    QrRung reached = QrRung::kGram;
    bool orthonormal = false;
    if (!reflects_at_once(rows_, cols_)) LRK_RETURN_IF_FAILED(passes(&orthonormal));
    if (!orthonormal && rows_ >= 2 * sketch_rows()) {  // a shorter matrix is not made easier by a sketch
      reached = QrRung::kSketch;
      LRK_RETURN_IF_FAILED(precondition());
      LRK_RETURN_IF_FAILED(passes(&orthonormal));
    }
    if (!orthonormal) {
      reached = QrRung::kHouseholder;
      LRK_RETURN_IF_FAILED(reflect());
    }
    if (rung != nullptr) *rung = reached;
    return want_r_ ? triangle(r) : Status{};
  }

 private:
  int64_t sketch_rows() const { return 2 * cols_ + 16; }

  /// Columns times powers of two: their largest entries come near 1, exactly. False where one is not finite.
  bool scale_columns() {
    std::fill_n(exponents_, cols_, 0);
    T* const largest = largest_;
    std::fill_n(largest, cols_, T(0));
    T poison = 0;
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j < cols_; ++j) {
        const T magnitude = std::fabs(q_[i * cols_ + j]);
        largest[j] = magnitude > largest[j] ? magnitude : largest[j];
        poison += 0 * magnitude;
      }
    if (poison != 0) return false;
    bool moderate = true;  // as nearly all matrices are: nothing to do
    for (int64_t j = 0; j < cols_; ++j) {
      if (largest[j] > 0) std::frexp(largest[j], &exponents_[j]);
      moderate = moderate && std::abs(exponents_[j]) < (sizeof(T) == 8 ? 400 : 60);
    }
    if (moderate) return std::fill_n(exponents_, cols_, 0), true;
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j < cols_; ++j) q_[i * cols_ + j] = std::ldexp(q_[i * cols_ + j], -exponents_[j]);
    return true;
  }

  struct Conditioning {
    double spread, growth;
  };

  /// Of the triangle in gram_ and its inverse, with l the lengths of A's columns: sqrt(|S|_1 |S|_inf) >= |S|_2 of
  /// S = diag(l) |R^-1|, and the most that a product with the rounded inverse adds to a column of A - Q R, in roundings
  /// of its length: the largest of (l S |R|)_j / l_j.
  Conditioning conditioning() {
    double *const lengths = weights_, *const sums = weights_ + cols_;
    std::fill_n(lengths, 2 * cols_, 0.0);
    for (int64_t i = 0; i < cols_; ++i)
      for (int64_t j = i; j < cols_; ++j) lengths[j] += gram_[i * cols_ + j] * gram_[i * cols_ + j];
    double rows = 0, columns = 0, growth = 0;
    for (int64_t i = 0; i < cols_; ++i) {
      lengths[i] = std::sqrt(lengths[i]);
      double row = 0;
      for (int64_t k = i; k < cols_; ++k) {
        const double entry = lengths[i] * std::fabs(inverse_[i * cols_ + k]);
        row += entry, sums[k] += entry;
      }
      rows = std::max(rows, row);
    }
    for (int64_t j = 0; j < cols_; ++j) {
      double sum = 0;
      for (int64_t k = 0; k <= j; ++k) sum += sums[k] * std::fabs(gram_[k * cols_ + j]);
      columns = std::max(columns, sums[j]), growth = std::max(growth, sum / lengths[j]);
    }
    return {std::sqrt(rows * columns), growth};
  }

  /// q becomes q R^-1 by substitution, a row at a time in float64. Its error in q R is q's rounding alone, where that
  /// of a product with the inverse grows with |R^-1| |R|.
  Status substitute(const double* r) {
    constexpr int64_t kRowsATask = 64;
    const Scratch::Frame frame(bench_.scratch);
    const int64_t tasks = ceil_div(rows_, kRowsATask);
    double* const rows = bench_.scratch.take<double>(tasks * cols_);
    double* const columns = bench_.scratch.take<double>(square_);
    if (bench_.scratch.failed()) return bench_.scratch.failure("orthonormalize");
    for (int64_t i = 0; i < cols_; ++i)
      for (int64_t j = i; j < cols_; ++j) columns[j * cols_ + i] = r[i * cols_ + j];
    const auto dot = vector_loops().dot;
    run_tasks(bench_.context, tasks, rows_ * square_ / 2, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * kRowsATask; i < std::min(rows_, end * kRowsATask); ++i) {
        double* const row = rows + i / kRowsATask * cols_;
        for (int64_t j = 0; j < cols_; ++j)
          row[j] = (double(q_[i * cols_ + j]) - dot(row, columns + j * cols_, j)) / columns[j * cols_ + j];
        for (int64_t j = 0; j < cols_; ++j) q_[i * cols_ + j] = T(row[j]);
      }
    });
    return {};
  }

  /// q becomes q R^-1 for gram = RT R until R was well conditioned; not orthonormal where a pivot is too small.
  Status passes(bool* orthonormal) {
    *orthonormal = false;
    for (int pass = 0; pass < kMostPasses; ++pass) {
      LRK_RETURN_IF_FAILED(gram_matrix<T>(bench_, q_, rows_, cols_, gram_));
      if (cholesky(gram_, cols_, kLeastPivot) == 0) return {};
      invert_upper(gram_, cols_, inverse_);
      const Conditioning triangle = conditioning();
      if (want_r_ && triangle.growth > kMostGrowth) {
        LRK_RETURN_IF_FAILED(substitute(gram_));
      } else {
        LRK_RETURN_IF_FAILED(multiply_by_upper<T>(bench_, q_, rows_, cols_, inverse_));
      }
      if (triangle.spread <= kMostSpread) return *orthonormal = true, Status{};
    }
    return {};
  }

  /// The second rung: q becomes q R^-1 of the triangle R of its sketch, in float64, and is then well conditioned.
  Status precondition() {
    const Scratch::Frame frame(bench_.scratch);
    const int64_t size = sketch_rows();
    double* const sketched = bench_.scratch.take<double>(cols_ * size);
    double* const lengths = bench_.scratch.take<double>(cols_);
    if (bench_.scratch.failed()) return bench_.scratch.failure("orthonormalize");
    for (uint64_t attempt = 0; attempt < 4; ++attempt) {
      LRK_RETURN_IF_FAILED(sketch_columns(sketched, size, attempt));
      for (int64_t j = 0; j < cols_; ++j) lengths[j] = length(sketched + j * size, size);
      LRK_RETURN_IF_FAILED(householder_qr(bench_, sketched, size, cols_, gram_));
      if (replace_dependent(lengths, attempt) == 0) break;
    }
    for (int64_t j = 0; j < cols_; ++j)
      if (!(gram_[j * cols_ + j] > 0)) return {};  // NaN, or what four attempts did not mend: left to the third rung
    return substitute(gram_);
  }

  /// OmegaT q of a sparse sign matrix, a column of q a row of `sketched`.
  Status sketch_columns(double* sketched, int64_t size, uint64_t attempt) {
    const Scratch::Frame frame(bench_.scratch);
    double* const sums = bench_.scratch.take<double>(size * cols_);
    if (bench_.scratch.failed()) return bench_.scratch.failure("orthonormalize");
    std::fill_n(sums, size * cols_, 0.0);
    int64_t places[kSparseSigns];
    bool negative[kSparseSigns];
    for (int64_t i = 0; i < rows_; ++i) {
      const int64_t count = sparse_sign_row(kPreconditionerSeed + attempt, i, size, places, negative);
      for (int64_t t = 0; t < count; ++t) {
        double* const to = sums + places[t] * cols_;
        const double sign = negative[t] ? -1 : 1;
        for (int64_t j = 0; j < cols_; ++j) to[j] += sign * double(q_[i * cols_ + j]);
      }
    }
    for (int64_t p = 0; p < size; ++p)
      for (int64_t j = 0; j < cols_; ++j) sketched[j * size + p] = sums[p * cols_ + j];
    return {};
  }

  /// Columns of which the triangle says that they depend on those before become random signs of length 1.
  int64_t replace_dependent(const double* lengths, uint64_t attempt) {
    int64_t replaced = 0;
    const T entry = T(1 / std::sqrt(double(rows_)));
    for (int64_t j = 0; j < cols_; ++j) {
      if (gram_[j * cols_ + j] > kDependent * lengths[j] || std::isnan(lengths[j])) continue;
      ++replaced;
      for (int64_t first = 0; first < rows_; first += 32) {
        const uint32_t signs = replacement_signs(attempt, first / 32, j, rows_);
        for (int64_t i = first; i < std::min(rows_, first + 32); ++i)
          q_[i * cols_ + j] = signs >> (i % 32) & 1 ? -entry : entry;
      }
    }
    return replaced;
  }

  /// The third rung, of the columns as they are now: what the rungs before did to them did not change their span.
  Status reflect() {
    const Scratch::Frame frame(bench_.scratch);
    double* const columns = bench_.scratch.take<double>(rows_ * cols_);
    if (bench_.scratch.failed()) return bench_.scratch.failure("orthonormalize");
    selected_kernels<double>().stage(columns, rows_, {q_, kDTypeOf<T>, 1, cols_}, cols_, rows_, rows_);
    LRK_RETURN_IF_FAILED(householder_qr(bench_, columns, rows_, cols_, nullptr));
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t j = 0; j < cols_; ++j) q_[i * cols_ + j] = T(columns[j * rows_ + i]);
    return {};
  }

  /// r = QT A with what lies below the diagonal, which is rounding, left out.
  Status triangle(double* r) {
    const MatrixView q = view_of<T>(static_cast<const T*>(q_), rows_, cols_);
    LRK_RETURN_IF_FAILED(bench_.product(q.transposed(), view_of<T>(static_cast<const T*>(original_), rows_, cols_),
                                        view_of(r, cols_, cols_)));
    for (int64_t i = 0; i < cols_; ++i) {
      for (int64_t j = 0; j < i; ++j) r[i * cols_ + j] = 0;
      double& diagonal = r[i * cols_ + i];
      if (diagonal < 0) diagonal = 0;  // of a column that depends on those before: rounding too
      for (int64_t j = i; j < cols_; ++j) r[i * cols_ + j] = std::ldexp(r[i * cols_ + j], exponents_[j]);
    }
    return {};
  }

  Workbench& bench_;
  T* const q_;
  const int64_t rows_, cols_;
  const bool want_r_;
  const int64_t square_;
  T *original_ = nullptr, *largest_ = nullptr;
  double *gram_ = nullptr, *inverse_ = nullptr, *weights_ = nullptr;
  int* exponents_ = nullptr;
};

}  // namespace

template <class T>
Status orthonormalize(Workbench& bench, T* q, int64_t rows, int64_t cols, double* r, QrRung* rung) {
  if (rows == 0 || cols == 0) return {};
  return ColumnQr<T>(bench, q, rows, cols, r != nullptr).run(r, rung);
}

template <class T>
Status normalize(Workbench& bench, T* q, int64_t rows, int64_t cols) {
  if (rows == 0 || cols == 0) return {};
  if (sizeof(T) == 8) return orthonormalize<T>(bench, q, rows, cols, nullptr);  // whose Gram matrix is no wider than it
  const Scratch::Frame frame(bench.scratch);
  double* const gram = bench.scratch.take<double>(cols * cols);
  double* const triangle = bench.scratch.take<double>(cols * cols);
  if (bench.scratch.failed()) return bench.scratch.failure("range_finder");
  LRK_RETURN_IF_FAILED(gram_matrix<T>(bench, q, rows, cols, gram));
  // Columns of zeros are to be replaced, and the inverse of a triangle of very short or long ones is not float32's.
  constexpr double kShort = 1e-50, kLong = 1e50;
  for (int64_t j = 0; j < cols; ++j)
    if (!(gram[j * cols + j] > kShort && gram[j * cols + j] < kLong))
      return orthonormalize<T>(bench, q, rows, cols, nullptr);
  std::copy_n(gram, cols * cols, triangle);
  if (cholesky(triangle, cols, kLeastPivot) == 0) {
    for (int64_t j = 0; j < cols; ++j) gram[j * cols + j] *= 1 + 4 * kLeastPivot;
    std::copy_n(gram, cols * cols, triangle);
    // Only NaN and Inf have no triangle now.
    if (cholesky(triangle, cols, kLeastPivot) == 0) return orthonormalize<T>(bench, q, rows, cols, nullptr);
  }
  invert_upper(triangle, cols, gram);
  return multiply_by_upper<T>(bench, q, rows, cols, gram);
}

template Status normalize<float>(Workbench&, float*, int64_t, int64_t);
template Status normalize<double>(Workbench&, double*, int64_t, int64_t);
template Status orthonormalize<float>(Workbench&, float*, int64_t, int64_t, double*, QrRung*);
template Status orthonormalize<double>(Workbench&, double*, int64_t, int64_t, double*, QrRung*);

}  // namespace lrk::cpu
