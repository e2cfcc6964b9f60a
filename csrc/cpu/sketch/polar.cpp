// Polar factors: Newton-Schulz iterations on the short side's Gram matrix, or the SVD of the triangle of a QR.
#include <cmath>

#include "cpu/sketch/kernels.h"
#include "cpu/sketch/orthonormalize.h"
#include "cpu/sketch/small_svd.h"

namespace lrk::cpu {

namespace {

/// Entries of a pass over a whole matrix that are one task, and one partial sum.
constexpr int64_t kTaskEntries = 1 << 14;

/// Calls body(task, its first entry, how many) for every piece of `count` entries.
template <class Body>
void for_pieces(const Context& context, int64_t count, const Body& body) {
  constexpr int64_t kCost = 8;  // multiply-adds that take as long as an entry of memory
  run_tasks(context, ceil_div(count, kTaskEntries), count * kCost, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      body(task, task * kTaskEntries, std::min(kTaskEntries, count - task * kTaskEntries));
  });
}

/// The larger of `largest` and the magnitudes, or NaN.
template <class T>
T largest_magnitude(const T* x, int64_t count, T largest) {
  for (int64_t i = 0; i < count; ++i) {
    const T magnitude = std::fabs(x[i]);
    largest = magnitude > largest || std::isnan(magnitude) ? magnitude : largest;
  }
  return largest;
}

/// x / divisor, and the sum of its squares.
template <class T>
double divide(T* x, int64_t count, T divisor) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    x[i] /= divisor;
    sum += double(x[i]) * double(x[i]);
  }
  return sum;
}

}  // namespace

int64_t norm_pieces(int64_t count) { return ceil_div(count, kTaskEntries); }

template <class T>
void scale_to_norm_one(T* x, int64_t rows, int64_t cols, int64_t stride) {
  T largest = 0;
  for (int64_t i = 0; i < rows; ++i) largest = largest_magnitude(x + i * stride, cols, largest);
  if (largest == 0) return;
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i) sum += divide(x + i * stride, cols, largest);
  for (int64_t i = 0; i < rows; ++i) divide(x + i * stride, cols, T(std::sqrt(sum)));
}

template void scale_to_norm_one<float>(float*, int64_t, int64_t, int64_t);
template void scale_to_norm_one<double>(double*, int64_t, int64_t, int64_t);

namespace {

/// scale_to_norm_one of a large matrix: in pieces, whose sums are added in order.
template <class T>
Status scale_to_norm_one(Workbench& bench, T* x, int64_t count) {
  const Scratch::Frame frame(bench.scratch);
  const int64_t pieces = norm_pieces(count);
  T* const largest = bench.scratch.take<T>(pieces);
  double* const sums = bench.scratch.take<double>(pieces);
  if (bench.scratch.failed()) return bench.scratch.failure("polar");
  for_pieces(bench.context, count, [&](int64_t piece, int64_t first, int64_t size) {
    largest[piece] = largest_magnitude(x + first, size, T(0));
  });
  const T divisor = largest_magnitude(largest, pieces, T(0));
  if (divisor == 0) return {};
  for_pieces(bench.context, count, [&](int64_t piece, int64_t first, int64_t size) {
    sums[piece] = divide(x + first, size, divisor);
  });
  double sum = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) sum += sums[piece];
  for_pieces(bench.context, count, [&](int64_t, int64_t first, int64_t size) {
    divide(x + first, size, T(std::sqrt(sum)));
  });
  return {};
}

/// to [rows, cols], contiguous, = from, of any strides.
template <class T>
void copy_in_pieces(const Context& context, const MatrixView& from, T* to) {
  const int64_t a_task = std::max<int64_t>(1, kTaskEntries / std::max<int64_t>(1, from.cols));
  run_tasks(context, ceil_div(from.rows, a_task), 8 * from.rows * from.cols, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * a_task, count = std::min(from.rows, end * a_task) - first;
    selected_kernels<T>().stage(to + first * from.cols, from.cols, source_at(from, first, 0), count, from.cols,
                                from.cols);
  });
}

template <class T>
Status newton_schulz(Workbench& bench, const PolarArgs& args, T* x, int64_t rows, int64_t cols) {
  const int64_t square = rows * rows;
  T *const next = bench.scratch.take<T>(rows * cols), *const m = bench.scratch.take<T>(square),
    *const m2 = bench.scratch.take<T>(square);
  if (bench.scratch.failed()) return bench.scratch.failure("polar");
  LRK_RETURN_IF_FAILED(scale_to_norm_one(bench, x, rows * cols));
  const MatrixView view = view_of<T>(static_cast<const T*>(x), rows, cols);
  const MatrixView gram = view_of<T>(static_cast<const T*>(m), rows, rows);
  for (size_t step = 0; step + 2 < args.coefficients.size(); step += 3) {
    const double c0 = args.coefficients[step], c1 = args.coefficients[step + 1], c2 = args.coefficients[step + 2];
    LRK_RETURN_IF_FAILED(bench.product(view, view.transposed(), view_of(m, rows, rows)));
    if (c2 != 0) LRK_RETURN_IF_FAILED(bench.product(gram, gram, view_of(m2, rows, rows)));
    for_pieces(bench.context, square, [&](int64_t, int64_t first, int64_t size) {
      for (int64_t i = first; i < first + size; ++i) m[i] = c2 != 0 ? T(c1 * m[i] + c2 * m2[i]) : T(c1 * m[i]);
    });
    LRK_RETURN_IF_FAILED(bench.product(gram, view, view_of(next, rows, cols)));
    for_pieces(bench.context, rows * cols, [&](int64_t, int64_t first, int64_t size) {
      for (int64_t i = first; i < first + size; ++i) x[i] = T(c0 * x[i] + next[i]);
    });
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
  copy_in_pieces(context, a, x);
  LRK_RETURN_IF_FAILED(args.exact ? exact<T>(bench, x, a.rows, a.cols)
                                  : newton_schulz<T>(bench, args, x, a.rows, a.cols));
  const MatrixView result = view_of<T>(static_cast<const T*>(x), a.rows, a.cols);
  copy_in_pieces(context, turn ? result.transposed() : result, out);
  return {};
}

template Status polar_factor<float>(const PolarArgs&, const Context&);
template Status polar_factor<double>(const PolarArgs&, const Context&);

}  // namespace lrk::cpu
