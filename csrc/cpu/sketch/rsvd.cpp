// Range finder and randomised SVD (Halko, Martinsson and Tropp, SIAM Review 2011, algorithms 4.4 and 5.1). A product
// with A is followed by a well conditioned basis, without which float32 loses the smaller singular values, the last one
// by an orthonormal basis.
//
// Floor, of A [m, n], l columns in the basis and one power step: A four times, 3 * m n l multiply-adds in GEMMs and
// 8 m n additions. The first product needs no GEMM: a sparse sign matrix serves as well as a dense one.
#include <cmath>

#include "cpu/sketch/kernels.h"
#include "cpu/sketch/orthonormalize.h"
#include "cpu/sketch/sketch_matrix.h"
#include "cpu/sketch/small_svd.h"
#include "cpu/sketch/tall_products.h"
#include "device/sketch_rules.h"

namespace lrk::cpu {
namespace {

/// A contiguous copy in T of a matrix of T.
template <class T>
void copy_matrix(const MatrixView& from, T* to, int64_t to_stride) {
  const T* const data = static_cast<const T*>(from.data);
  for (int64_t i = 0; i < from.rows; ++i)
    for (int64_t j = 0; j < from.cols; ++j) to[i * to_stride + j] = data[i * from.row_stride + j * from.col_stride];
}

/// The first columns of A Omega, as many as q has, times `scale`: all of Omega's `size`, or those that a basis of before
/// leaves.
template <class T>
Status multiply_by_start(Workbench& bench, const RangeFinderArgs& args, int64_t size, double scale,
                         const MutableMatrixView& q) {
  const int64_t cols = args.a.cols;
  if (!starts_gaussian(cols, size)) return multiply_by_sparse_signs<T>(bench, args.a, args.seed, size, scale, q);
  const Scratch::Frame frame(bench.scratch);
  T* const start = bench.scratch.take<T>(cols * size);
  if (bench.scratch.failed()) return bench.scratch.failure("range_finder");
  SketchMatrixArgs omega;
  omega.kind = SketchKind::kGaussian, omega.seed = args.seed, omega.matrix = view_of(start, cols, size);
  fill_sketch_matrix<T>(omega, bench.context);
  scale_block(start, cols * size, T(scale));
  MatrixView first = omega.matrix;
  first.cols = q.cols;
  return bench.product(args.a, first, q);
}

template <class T>
Status range_from(Workbench& bench, const RangeFinderArgs& args, T* q, int64_t size, double scale) {
  const Scratch::Frame frame(bench.scratch);
  const int64_t rows = args.a.rows, cols = args.a.cols, warm = args.q0.present() ? args.q0.cols : 0;
  T* const other = bench.scratch.take<T>(cols * std::max(size, warm));
  if (bench.scratch.failed()) return bench.scratch.failure("range_finder");
  const auto constant = [](const T* data, int64_t r, int64_t c) { return view_of<T>(data, r, c); };
  const auto columns = [&](int64_t first, int64_t count) {
    return MutableMatrixView{q + first, kDTypeOf<T>, rows, count, size, 1};
  };
  if (warm > 0) {
    LRK_RETURN_IF_FAILED(bench.product(args.a.transposed(), args.q0, view_of(other, cols, warm)));
    LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, other, cols, warm, nullptr));
    LRK_RETURN_IF_FAILED(bench.product(args.a, constant(other, cols, warm), columns(0, warm)));
  }
  if (warm < size) LRK_RETURN_IF_FAILED(multiply_by_start<T>(bench, args, size, scale, columns(warm, size - warm)));
  for (int64_t step = 0; step < args.power_iters; ++step) {
    LRK_RETURN_IF_FAILED(normalize<T>(bench, q, rows, size));
    LRK_RETURN_IF_FAILED(bench.product(args.a.transposed(), constant(q, rows, size), view_of(other, cols, size)));
    LRK_RETURN_IF_FAILED(normalize<T>(bench, other, cols, size));
    LRK_RETURN_IF_FAILED(bench.product(args.a, constant(other, cols, size), view_of(q, rows, size)));
  }
  return orthonormalize<T>(bench, q, rows, size, nullptr);
}

template <class T>
Status range_of(Workbench& bench, const RangeFinderArgs& args, T* q, int64_t size) {
  LRK_RETURN_IF_FAILED(range_from<T>(bench, args, q, size, 1));
  // NaN everywhere is a matrix that is not finite, or one so large that its first product was not. Short columns of the
  // start repair that, and cost what a matrix that is as large as nearly none would have every one pay.
  if (!std::isnan(q[0])) return {};
  return range_from<T>(bench, args, q, size, short_start(args.a.cols, size));
}

/// signs[j] = 1 or -1: that of the largest entry of column j, of equal ones the first.
template <class T>
void signs_of_columns(const T* u, int64_t rows, int64_t rank, T* signs) {
  std::fill_n(signs, rank, T(0));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < rank; ++j) {
      const T entry = u[i * rank + j], largest = signs[j];
      signs[j] = std::fabs(entry) > std::fabs(largest) ? entry : largest;
    }
  for (int64_t j = 0; j < rank; ++j) signs[j] = signs[j] < 0 ? T(-1) : T(1);
}

template <class T>
void scale_columns(T* matrix, int64_t rows, int64_t cols, const T* by) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) matrix[i * cols + j] *= by[j];
}

}  // namespace

template <class T>
Status orthonormalize_matrix(const OrthonormalizeArgs& args, const Context& context) {
  Workbench bench(context, args.product);
  const int64_t rows = args.a.rows, cols = args.a.cols, size = std::min(rows, cols);
  if (size == 0) return {};
  MatrixView first = args.a, rest = args.a;
  first.cols = size, rest.cols = cols - size;
  rest.data = static_cast<const T*>(args.a.data) + size * args.a.col_stride;
  T* const q = static_cast<T*>(args.q.data);
  double* const triangle = args.r.present() ? bench.scratch.take<double>(size * size) : nullptr;
  if (bench.scratch.failed()) return bench.scratch.failure("orthonormalize");
  copy_matrix<T>(first, q, size);
  LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, q, rows, size, triangle));
  if (!args.r.present()) return {};
  T* const r = static_cast<T*>(args.r.data);
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j < size; ++j) r[i * args.r.row_stride + j * args.r.col_stride] = T(triangle[i * size + j]);
  MutableMatrixView right = args.r;
  right.data = r + size * args.r.col_stride, right.cols = cols - size;
  const MatrixView qt = view_of<T>(static_cast<const T*>(q), rows, size).transposed();
  return bench.product(qt, rest, right);
}

template <class T>
Status find_range(const RangeFinderArgs& args, const Context& context) {
  if (args.q.rows == 0 || args.q.cols == 0) return {};
  Workbench bench(context, args.product);
  return range_of<T>(bench, args, static_cast<T*>(args.q.data), args.q.cols);
}

namespace {

/// What is left of A ~ Q PT, P = AT Q, when Q's basis is known: P = (P W) WT for the eigenvectors W of PT P, so that
/// A ~ (Q W) S (P W / S)T.
template <class T>
class Truncation {
 public:
  Truncation(Workbench& bench, const RsvdArgs& args, const T* q, T* p)
      : bench_(bench),
        args_(args),
        rows_(args.range.a.rows),
        cols_(args.range.a.cols),
        size_(args.basis),
        rank_(args.s.cols),
        q_(q),
        p_(p) {}

  Status run() {
    factor_ = bench_.scratch.take<T>(size_ * rank_);
    values_ = bench_.scratch.take<double>(size_);
    if (bench_.scratch.failed()) return bench_.scratch.failure("rsvd");
    bool done = false;
    if (sizeof(T) == 4) LRK_RETURN_IF_FAILED(by_eigenvectors(&done));
    if (!done) LRK_RETURN_IF_FAILED(by_triangle());
    for (int64_t j = 0; j < rank_; ++j) static_cast<T*>(args_.s.data)[j * args_.s.col_stride] = T(values_[j]);
    signs_of_columns(static_cast<const T*>(args_.u.data), rows_, rank_, factor_);
    scale_columns(static_cast<T*>(args_.u.data), rows_, rank_, factor_);
    scale_columns(static_cast<T*>(args_.v.data), cols_, rank_, factor_);
    return {};
  }

 private:
  /// In float32 a float64 Gram matrix has all that P knows of singular values down to 1e-5 of the largest. The columns
  /// of P W / S are orthogonal up to roundings of the largest, which one more orthonormalisation, of `rank` columns
  /// only, takes away; what it changes of A's approximation is roundings of the largest too.
  Status by_eigenvectors(bool* done) {
    constexpr double kLeastEigenvalue = 1e-10;
    constexpr double kSmall = 1e-50, kLarge = 1e50;  // their roots' inverses are float32's, with room
    const Scratch::Frame frame(bench_.scratch);
    double* const gram = bench_.scratch.take<double>(size_ * size_);
    if (bench_.scratch.failed()) return bench_.scratch.failure("rsvd");
    LRK_RETURN_IF_FAILED(gram_matrix<T>(bench_, p_, cols_, size_, gram));
    for (int64_t i = 0; i < size_; ++i)
      if (!std::isfinite(gram[i * size_ + i])) return {};
    LRK_RETURN_IF_FAILED(eigen_decomposition(bench_, gram, size_, values_));
    if (!(values_[rank_ - 1] > kLeastEigenvalue * values_[0])) return {};
    if (!(values_[rank_ - 1] > kSmall && values_[0] < kLarge)) return {};
    for (int64_t j = 0; j < rank_; ++j) values_[j] = std::sqrt(values_[j]);
    LRK_RETURN_IF_FAILED(expand(q_, rows_, gram, nullptr, args_.u));
    LRK_RETURN_IF_FAILED(expand(p_, cols_, gram, values_, args_.v));
    *done = true;
    return orthonormalize<T>(bench_, static_cast<T*>(args_.v.data), cols_, rank_, nullptr);
  }

  /// P = O R and R = Y S WT: small singular values keep their digits and their vectors.
  Status by_triangle() {
    const Scratch::Frame frame(bench_.scratch);
    const int64_t square = size_ * size_;
    double *const r = bench_.scratch.take<double>(square), *const left = bench_.scratch.take<double>(square),
           *const right = bench_.scratch.take<double>(square);
    if (bench_.scratch.failed()) return bench_.scratch.failure("rsvd");
    LRK_RETURN_IF_FAILED(orthonormalize<T>(bench_, p_, cols_, size_, r));
    // What float32 rounds anyway need not be orthogonal to float64's last bits.
    LRK_RETURN_IF_FAILED(small_svd(bench_, r, size_, sizeof(T) == 8 ? 0x1p-50 : 0x1p-28, left, values_, right));
    LRK_RETURN_IF_FAILED(expand(q_, rows_, right, nullptr, args_.u));
    return expand(p_, cols_, left, nullptr, args_.v);
  }

  /// out = basis vectorsT, of the first rank rows of `vectors`, over `scales` if given.
  Status expand(const T* basis, int64_t count, const double* vectors, const double* scales,
                const MutableMatrixView& out) {
    for (int64_t j = 0; j < rank_; ++j)
      for (int64_t i = 0; i < size_; ++i)
        factor_[i * rank_ + j] = T(vectors[j * size_ + i] / (scales != nullptr ? scales[j] : 1));
    return bench_.product(view_of<T>(basis, count, size_), view_of<T>(static_cast<const T*>(factor_), size_, rank_),
                          out);
  }

  Workbench& bench_;
  const RsvdArgs& args_;
  const int64_t rows_, cols_, size_, rank_;
  const T* const q_;
  T* const p_;
  T* factor_ = nullptr;
  double* values_ = nullptr;
};

}  // namespace

template <class T>
Status randomized_svd(const RsvdArgs& args, const Context& context) {
  const int64_t rows = args.range.a.rows, cols = args.range.a.cols, size = args.basis;
  if (args.s.cols == 0) return {};
  Workbench bench(context, args.range.product, args.eigen);
  T *const q = bench.scratch.take<T>(rows * size), *const p = bench.scratch.take<T>(cols * size);
  if (bench.scratch.failed()) return bench.scratch.failure("rsvd");
  LRK_RETURN_IF_FAILED(range_of<T>(bench, args.range, q, size));
  const MatrixView basis = view_of<T>(static_cast<const T*>(q), rows, size);
  LRK_RETURN_IF_FAILED(bench.product(args.range.a.transposed(), basis, view_of(p, cols, size)));
  return Truncation<T>(bench, args, q, p).run();
}

template Status orthonormalize_matrix<float>(const OrthonormalizeArgs&, const Context&);
template Status orthonormalize_matrix<double>(const OrthonormalizeArgs&, const Context&);
template Status find_range<float>(const RangeFinderArgs&, const Context&);
template Status find_range<double>(const RangeFinderArgs&, const Context&);
template Status randomized_svd<float>(const RsvdArgs&, const Context&);
template Status randomized_svd<double>(const RsvdArgs&, const Context&);

}  // namespace lrk::cpu
