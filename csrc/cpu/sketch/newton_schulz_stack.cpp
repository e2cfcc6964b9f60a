// Newton-Schulz iterations of a stack of small matrices: each stays in one core's cache from first step to last.
//
// A step of X [r, c], r <= c, is M = X XT, B = c1 M + c2 M M and X = c0 X + B X: about r r c / 2 + r r r / 2 + r r c
// multiply-adds, since of the two symmetric products only tiles that meet the upper triangle are computed. Bytes: the
// stack once in and once out. A symmetric matrix is its own transpose, so that only X is turned round for the tiles.
#include <algorithm>

#include "cpu/gemm/block.h"
#include "cpu/sketch/kernels.h"
#include "cpu/sketch/workspace_bytes.h"

namespace lrk::cpu {
namespace {

/// Bytes of work memory a matrix may need: with more, a core's second level cache holds it no longer, and the library's
/// products of one matrix are large enough to be fast.
constexpr int64_t kMostBytes = 1'600'000;
/// Below, several threads on one matrix serve better.
constexpr int64_t kFewestMatrices = 4;
/// Tasks: enough for 64 cores, unless their work memory together would be more than this.
constexpr int64_t kMostTasks = 128, kFewTasks = 16, kMostWorkBytes = 64 << 20;

/// Strides in elements: whole tiles, and an odd number of cache lines, so that lines do not compete for places.
int64_t padded(int64_t size, int64_t tile, int64_t line) {
  const int64_t whole = ceil_div(size, tile) * tile;
  return ceil_div(whole, line) % 2 == 0 ? whole + line : whole;
}

struct Extent {
  int64_t rows, cols, square_stride, stride;

  Extent(int64_t height, int64_t width, int64_t tile, int64_t line)
      : rows(std::min(height, width)),
        cols(std::max(height, width)),
        square_stride(padded(rows, tile, line)),
        stride(padded(cols, tile, line)) {}
  int64_t elements() const { return 2 * rows * stride + cols * square_stride + 2 * rows * square_stride; }
};

template <class T>
class StackedNewtonSchulz {
 public:
  StackedNewtonSchulz(const BatchedPolarArgs& args, const Context& context)
      : args_(args),
        context_(context),
        kernels_(selected_kernels<T>()),
        extent_(args.a.first.rows, args.a.first.cols, kernels_.tile_cols, 64 / int64_t(sizeof(T))) {}

  int64_t tasks() const {
    const int64_t fitting = kMostWorkBytes / (extent_.elements() * int64_t(sizeof(T)));
    return std::min(args_.a.count, std::clamp(fitting, kFewTasks, kMostTasks));
  }
  size_t workspace_bytes() const { return Workspace::padded(size_t(tasks() * extent_.elements()) * sizeof(T)); }

  Status run() const {
    const int64_t count = args_.a.count, tasks = this->tasks();
    Workspace workspace(workspace_bytes());
    if (!workspace.allocate(context_)) return out_of_memory("polar", workspace_bytes());
    T* const work = workspace.take<T>(tasks * extent_.elements());
    run_tasks(context_, tasks, count * extent_.rows * extent_.rows * extent_.cols, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task)
        for (int64_t index = task; index < count; index += tasks) one(index, work + task * extent_.elements());
    });
    return {};
  }

 private:
  /// c(i, j) = sum_k a[k, i] b[k, j] (+ c), of whole tiles; with `symmetric` only those that meet the upper triangle.
  void product(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t depth, int64_t cols, T* c,
               int64_t c_stride, bool symmetric, bool accumulate) const {
    const int64_t height = kernels_.tile_rows, width = kernels_.tile_cols;
    for (int64_t j = 0; j < cols; j += width)
      for (int64_t i = 0; i < (symmetric ? std::min(extent_.rows, j + width) : extent_.rows); i += height)
        kernels_.multiply(std::min(height, extent_.rows - i), depth, a + i, a_stride, b + j, b_stride,
                          c + i * c_stride + j, c_stride, accumulate, a, 0);
  }

  void one(int64_t index, T* work) const {
    const auto [rows, cols, square, stride] = extent_;
    T *const x = work, *const turned = x + 2 * rows * stride, *const m = turned + cols * square,
             *const m2 = m + rows * square;
    const MatrixView a = matrix(args_.a.first, args_.a.stride * index);
    T *now = x, *next = x + rows * stride;
    std::fill_n(work, extent_.elements(), T(0));
    kernels_.stage(now, stride, source_at(a, 0, 0), rows, cols, stride);
    scale_to_norm_one(now, rows, cols, stride);
    const DType dtype = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
    for (size_t step = 0; step + 2 < args_.coefficients.size(); step += 3) {
      const T c0 = T(args_.coefficients[step]), c1 = T(args_.coefficients[step + 1]);
      const T c2 = T(args_.coefficients[step + 2]);
      kernels_.stage(turned, square, {now, dtype, 1, stride}, cols, rows, square);
      product(turned, square, turned, square, cols, rows, m, square, true, false);
      mirror(m);
      if (c2 != 0) product(m, square, m, square, rows, rows, m2, square, true, false), mirror(m2);
      for (int64_t i = 0; i < rows * square; ++i) m[i] = c2 != 0 ? c1 * m[i] + c2 * m2[i] : c1 * m[i];
      for (int64_t i = 0; i < rows * stride; ++i) next[i] = c0 * now[i];
      product(m, square, now, stride, rows, cols, next, stride, false, true);
      std::swap(now, next);
    }
    MutableMatrixView out = args_.out.first;
    out.data = static_cast<char*>(out.data) + index * args_.out.stride * int64_t(size_of(out.dtype));
    if (out.rows > out.cols) {
      kernels_.stage(turned, square, {now, dtype, 1, stride}, cols, rows, square);
      kernels_.finish(turned, square, cols, rows, nullptr, nullptr, destination_at(out, 0, 0));
    } else {
      kernels_.finish(now, stride, rows, cols, nullptr, nullptr, destination_at(out, 0, 0));
    }
  }

  /// The matrix at `offset` elements, its short side first.
  static MatrixView matrix(MatrixView view, int64_t offset) {
    view.data = static_cast<const char*>(view.data) + offset * int64_t(size_of(view.dtype));
    return view.rows > view.cols ? view.transposed() : view;
  }

  void mirror(T* m) const {
    for (int64_t i = 0; i < extent_.rows; ++i)
      for (int64_t j = 0; j < i; ++j) m[i * extent_.square_stride + j] = m[j * extent_.square_stride + i];
  }

  const BatchedPolarArgs& args_;
  const Context& context_;
  const Kernels<T>& kernels_;
  const Extent extent_;
};

}  // namespace

bool newton_schulz_in_stack(int64_t count, int64_t rows, int64_t cols, DType dtype) {
  const int64_t size = dtype == DType::kFloat64 ? 8 : 4;  // half types are computed with in float32
  return count >= kFewestMatrices && rows > 0 && cols > 0 && Extent(rows, cols, 32, 16).elements() * size <= kMostBytes;
}

size_t workspace_bytes(const BatchedPolarArgs& args) {
  const Context none;
  return args.a.first.dtype == DType::kFloat64 ? StackedNewtonSchulz<double>(args, none).workspace_bytes()
                                               : StackedNewtonSchulz<float>(args, none).workspace_bytes();
}

Status newton_schulz_stack(const BatchedPolarArgs& args, const Context& context) {
  return args.a.first.dtype == DType::kFloat64 ? StackedNewtonSchulz<double>(args, context).run()
                                               : StackedNewtonSchulz<float>(args, context).run();
}

}  // namespace lrk::cpu
