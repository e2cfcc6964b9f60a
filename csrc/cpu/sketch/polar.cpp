// Polar factors: Newton-Schulz iterations on the short side's Gram matrix, or the SVD of the triangle of a QR.
#include <cmath>

#include "cpu/sketch/kernels.h"
#include "cpu/sketch/orthonormalize.h"
#include "cpu/sketch/small_svd.h"

namespace lrk::cpu {

template <class T>
void scale_to_norm_one(T* x, int64_t rows, int64_t cols, int64_t stride) {
  T largest = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const T magnitude = std::fabs(x[i * stride + j]);
      largest = magnitude > largest || std::isnan(magnitude) ? magnitude : largest;
    }
  if (largest == 0) return;
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      T& entry = x[i * stride + j];
      entry /= largest;
      sum += double(entry) * double(entry);
    }
  const T norm = T(std::sqrt(sum));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) x[i * stride + j] /= norm;
}

template void scale_to_norm_one<float>(float*, int64_t, int64_t, int64_t);
template void scale_to_norm_one<double>(double*, int64_t, int64_t, int64_t);

namespace {

template <class T>
Status newton_schulz(Workbench& bench, const PolarArgs& args, T* x, int64_t rows, int64_t cols) {
  const int64_t square = rows * rows;
  T *const next = bench.scratch.take<T>(rows * cols), *const m = bench.scratch.take<T>(square),
    *const m2 = bench.scratch.take<T>(square);
  if (bench.scratch.failed()) return bench.scratch.failure("polar");
  scale_to_norm_one(x, rows, cols, cols);
  const MatrixView view = view_of<T>(static_cast<const T*>(x), rows, cols);
  const MatrixView gram = view_of<T>(static_cast<const T*>(m), rows, rows);
  for (size_t step = 0; step + 2 < args.coefficients.size(); step += 3) {
    const double c0 = args.coefficients[step], c1 = args.coefficients[step + 1], c2 = args.coefficients[step + 2];
    LRK_RETURN_IF_FAILED(bench.product(view, view.transposed(), view_of(m, rows, rows)));
    if (c2 != 0) LRK_RETURN_IF_FAILED(bench.product(gram, gram, view_of(m2, rows, rows)));
    for (int64_t i = 0; i < square; ++i) m[i] = c2 != 0 ? T(c1 * m[i] + c2 * m2[i]) : T(c1 * m[i]);
    LRK_RETURN_IF_FAILED(bench.product(gram, view, view_of(next, rows, cols)));
    for (int64_t i = 0; i < rows * cols; ++i) x[i] = T(c0 * x[i] + next[i]);
  }
  return {};
}

/// x [rows, cols], rows >= cols: Q (Y WT) of x = Q R, R = Y S WT.
template <class T>
Status exact(Workbench& bench, T* x, int64_t rows, int64_t cols) {
  const int64_t square = cols * cols;
  double *const r = bench.scratch.take<double>(square), *const left = bench.scratch.take<double>(square),
         *const right = bench.scratch.take<double>(square), *const values = bench.scratch.take<double>(cols);
  T *const turned = bench.scratch.take<T>(square), *const q = bench.scratch.take<T>(rows * cols);
  if (bench.scratch.failed()) return bench.scratch.failure("polar");
  LRK_RETURN_IF_FAILED(orthonormalize<T>(bench, x, rows, cols, r));
  LRK_RETURN_IF_FAILED(small_svd(bench, r, cols, 0x1p-50, left, values, right));
  const auto view = [](const double* data, int64_t size) { return view_of<double>(data, size, size); };
  LRK_RETURN_IF_FAILED(bench.product(view(left, cols).transposed(), view(right, cols), view_of(r, cols, cols)));
  for (int64_t i = 0; i < square; ++i) turned[i] = T(r[i]);
  std::copy_n(x, rows * cols, q);
  return bench.product(view_of<T>(static_cast<const T*>(q), rows, cols),
                       view_of<T>(static_cast<const T*>(turned), cols, cols), view_of(x, rows, cols));
}

}  // namespace

template <class T>
Status polar_factor(const PolarArgs& args, const Context& context) {
  const int64_t rows = args.a.rows, cols = args.a.cols;
  if (rows == 0 || cols == 0) return {};
  Workbench bench(context, args.product, args.eigen);
  // The iteration wants the short side first, the decomposition the long one.
  const bool turn = args.exact ? rows < cols : rows > cols;
  const MatrixView a = turn ? args.a.transposed() : args.a;
  T *const x = bench.scratch.take<T>(rows * cols), *const out = static_cast<T*>(args.out.data);
  if (bench.scratch.failed()) return bench.scratch.failure("polar");
  const T* const from = static_cast<const T*>(a.data);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.cols; ++j) x[i * a.cols + j] = from[i * a.row_stride + j * a.col_stride];
  LRK_RETURN_IF_FAILED(args.exact ? exact<T>(bench, x, a.rows, a.cols)
                                  : newton_schulz<T>(bench, args, x, a.rows, a.cols));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) out[i * cols + j] = turn ? x[j * rows + i] : x[i * cols + j];
  return {};
}

template Status polar_factor<float>(const PolarArgs&, const Context&);
template Status polar_factor<double>(const PolarArgs&, const Context&);

}  // namespace lrk::cpu
