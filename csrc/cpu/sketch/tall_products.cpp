#include "cpu/sketch/tall_products.h"

#include <cmath>

#include "cpu/sketch/sketch_matrix.h"
#include "cpu/sketch/vector_loops.h"

namespace lrk::cpu {
namespace {

/// Up to here a product's operands fit on a task's stack, and stay in the cache of the core that runs it.
constexpr int64_t kMostCols = 512;

/// Elements of a register tile, at most.
constexpr int64_t kMostTile = 14 * 32;
/// Parts of a Gram matrix's sum: as many as 64 cores keep busy, but eight at least of short matrices, no shorter ones
/// than 256 rows of long ones, and not more than 32 MB of sums.
constexpr int64_t kFewParts = 8, kMostParts = 128, kLeastPartRows = 256, kMostSums = 1 << 22;
/// Rows of x that are staged at once, and rows of the sum that a task adds.
constexpr int64_t kDepth = 64, kSumRows = 16;
/// Rows that a task of a triangular product copies before it writes them: whole register tiles.
constexpr int64_t kTaskRows = 56;
/// Columns of A that the sparse product transposes at once, and blocks of kSignedRows rows a task.
constexpr int64_t kStagedCols = 512, kBlocksATask = 8;

inline int64_t round_up(int64_t value, int64_t to) { return ceil_div(value, to) * to; }

/// How the rows of a Gram matrix's sum are cut.
struct GramCut {
  int64_t stride, part_rows, parts;

  GramCut(int64_t rows, int64_t cols) : stride(round_up(cols, selected_kernels<double>().tile_cols)) {
    const int64_t most = std::clamp(kMostSums / (stride * stride), kFewParts, kMostParts);
    const int64_t wanted = std::clamp(rows / kLeastPartRows, kFewParts, most);
    part_rows = round_up(balanced_part(rows, ceil_div(rows, wanted)), kDepth);
    parts = ceil_div(rows, part_rows);
  }
  int64_t sums() const { return parts * stride * stride; }
};

}  // namespace

int64_t gram_sums(int64_t rows, int64_t cols) { return cols > kMostCols ? 0 : GramCut(rows, cols).sums(); }

template <class T>
Status gram_matrix(Workbench& bench, const T* x, int64_t rows, int64_t cols, double* gram) {
  if (cols > kMostCols) {
    const MatrixView view = view_of<T>(x, rows, cols);
    return bench.product(view.transposed(), view, view_of(gram, cols, cols));
  }
  const Kernels<double>& kernels = selected_kernels<double>();
  // Panels of `width` columns serve as both operands: tiles are as high as a panel is wide, or half of it.
  const int64_t width = kernels.tile_cols, height = width <= kernels.tile_rows ? width : width / 2;
  const GramCut cut(rows, cols);
  const int64_t stride = cut.stride, part_rows = cut.part_rows, parts = cut.parts;
  const Scratch::Frame frame(bench.scratch);
  double* const sums = bench.scratch.take<double>(cut.sums());
  if (bench.scratch.failed()) return bench.scratch.failure("orthonormalize");
  run_tasks(bench.context, parts, rows * cols * cols / 2, [&](int64_t begin, int64_t end) {
    alignas(64) double panels[kDepth * kMostCols];
    for (int64_t part = begin; part < end; ++part) {
      double* const sum = sums + part * stride * stride;
      const int64_t last = std::min(rows, (part + 1) * part_rows);
      for (int64_t row = part * part_rows; row < last; row += kDepth) {
        const int64_t depth = std::min(kDepth, last - row);
        for (int64_t j = 0; j < cols; j += width) {
          double* const right = panels + j * depth;
          kernels.stage(right, width, {x + row * cols + j, kDTypeOf<T>, cols, 1}, depth, std::min(width, cols - j),
                        width);
          for (int64_t i = 0; i < std::min(cols, j + width); i += height)
            kernels.multiply(std::min(height, cols - i), depth, panels + i / width * width * depth + i % width, width,
                             right, width, sum + i * stride + j, stride, row > part * part_rows, right, 0);
        }
      }
    }
  });
  run_tasks(bench.context, ceil_div(cols, kSumRows), parts * cols * cols / 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kSumRows; i < std::min(cols, end * kSumRows); ++i) {
      double* const row = gram + i * cols;
      std::copy_n(sums + i * stride + i, cols - i, row + i);
      for (int64_t part = 1; part < parts; ++part)
        vector_loops().add_scaled(row + i, 1, sums + (part * stride + i) * stride + i, cols - i);
    }
  });
  for (int64_t i = 0; i < cols; ++i)
    for (int64_t j = 0; j < i; ++j) gram[i * cols + j] = gram[j * cols + i];
  return {};
}

namespace {

template <class T>
Status multiply_by_wide_upper(Workbench& bench, T* x, int64_t rows, int64_t cols, const double* r) {
  const Scratch::Frame frame(bench.scratch);
  T *const upper = bench.scratch.take<T>(cols * cols), *const product = bench.scratch.take<T>(rows * cols);
  if (bench.scratch.failed()) return bench.scratch.failure("orthonormalize");
  for (int64_t i = 0; i < cols * cols; ++i) upper[i] = T(r[i]);
  LRK_RETURN_IF_FAILED(bench.product(view_of<T>(static_cast<const T*>(x), rows, cols),
                                     view_of<T>(static_cast<const T*>(upper), cols, cols),
                                     view_of(product, rows, cols)));
  std::copy_n(product, rows * cols, x);
  return {};
}

}  // namespace

template <class T>
UpperProduct upper_product(int64_t rows, int64_t cols) {
  if (cols > kMostCols) return {cols * cols, rows * cols};
  return {cols * round_up(cols, selected_kernels<T>().tile_cols), 0};
}

template UpperProduct upper_product<float>(int64_t, int64_t);
template UpperProduct upper_product<double>(int64_t, int64_t);

template <class T>
Status multiply_by_upper(Workbench& bench, T* x, int64_t rows, int64_t cols, const double* r) {
  if (cols > kMostCols) return multiply_by_wide_upper<T>(bench, x, rows, cols, r);
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t height = kernels.tile_rows, width = kernels.tile_cols, task_rows = kTaskRows / height * height;
  const int64_t padded = round_up(cols, width), tasks = ceil_div(rows, task_rows);
  const Scratch::Frame frame(bench.scratch);
  T* const upper = bench.scratch.take<T>(cols * padded);  // a panel of `width` columns after the other
  if (bench.scratch.failed()) return bench.scratch.failure("orthonormalize");
  for (int64_t j = 0; j < padded; ++j)
    for (int64_t i = 0; i < cols; ++i)
      upper[(j / width * cols + i) * width + j % width] = i <= j && j < cols ? T(r[i * cols + j]) : T(0);
  run_tasks(bench.context, tasks, rows * cols * cols / 2, [&](int64_t begin, int64_t end) {
    alignas(64) T panel[kTaskRows * kMostCols];
    alignas(64) T edge[kMostTile];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task * task_rows, count = std::min(task_rows, rows - row);
      for (int64_t i = 0; i < count; i += height)
        kernels.stage(panel + i * cols, height, {x + (row + i) * cols, kDTypeOf<T>, 1, cols}, cols,
                      std::min(height, count - i), height);
      for (int64_t j = 0; j < cols; j += width) {
        const int64_t depth = std::min(cols, j + width);  // what is below the diagonal is zero
        const bool whole = j + width <= cols;
        for (int64_t i = 0; i < count; i += height) {
          const int64_t high = std::min(height, count - i);
          T* const out = x + (row + i) * cols + j;
          kernels.multiply(high, depth, panel + i * cols, height, upper + j * cols, width, whole ? out : edge,
                           whole ? cols : width, false, panel, 0);
          for (int64_t line = 0; !whole && line < high; ++line)
            std::copy_n(edge + line * width, cols - j, out + line * cols);
        }
      }
    }
  });
  return {};
}

SparseProduct sparse_product(int64_t rows, int64_t cols, int64_t size) {
  SparseProduct product{};
  product.entries = std::min(size, kSparseSigns), product.blocks = ceil_div(rows, kSignedRows);
  product.tasks = ceil_div(product.blocks, kBlocksATask);
  product.codes = cols * product.entries, product.sums = product.tasks * size * kSignedRows;
  return product;
}

template <class T>
Status multiply_by_sparse_signs(Workbench& bench, const MatrixView& a, uint64_t seed, int64_t size, double scale,
                                const MutableMatrixView& y) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const SignedLoops<T>& loops = signed_loops<T>();
  const SparseProduct cut = sparse_product(a.rows, a.cols, size);
  const int64_t entries = cut.entries, blocks = cut.blocks, tasks = cut.tasks;
  const Scratch::Frame frame(bench.scratch);
  int32_t* const codes = bench.scratch.take<int32_t>(cut.codes);
  T* const sums = bench.scratch.take<T>(cut.sums);
  if (bench.scratch.failed()) return bench.scratch.failure("range_finder");
  run_tasks(bench.context, ceil_div(a.cols, kStagedCols), a.cols * 256, [&](int64_t begin, int64_t end) {
    int64_t places[kSparseSigns];
    bool negative[kSparseSigns];
    for (int64_t k = begin * kStagedCols; k < std::min(a.cols, end * kStagedCols); ++k) {
      sparse_sign_row(seed, k, size, places, negative);
      for (int64_t t = 0; t < entries; ++t) codes[k * entries + t] = int32_t(2 * places[t] + negative[t]);
    }
  });
  const T magnitude = T(1 / std::sqrt(double(entries)));
  T* const out = static_cast<T*>(y.data);
  run_tasks(bench.context, tasks, a.rows * a.cols * entries, [&](int64_t begin, int64_t end) {
    alignas(64) T lines[kStagedCols * kSignedRows];
    for (int64_t task = begin; task < end; ++task) {
      T* const sum = sums + task * size * kSignedRows;
      for (int64_t block = task * kBlocksATask; block < std::min(blocks, (task + 1) * kBlocksATask); ++block) {
        const int64_t row = block * kSignedRows, count = std::min(kSignedRows, a.rows - row);
        std::fill_n(sum, size * kSignedRows, T(0));
        for (int64_t k = 0; k < a.cols; k += kStagedCols) {
          const int64_t depth = std::min(kStagedCols, a.cols - k);
          kernels.stage(lines, kSignedRows, source_at(a.transposed(), k, row), depth, count, kSignedRows);
          scale_block(lines, depth * kSignedRows, T(scale));
          // The next piece of these rows, or the first of the next ones; columns that are contiguous need no help.
          const bool last = k + depth == a.cols;
          const T* const next = static_cast<const T*>(a.data) + (last ? row + kSignedRows : row) * a.row_stride +
                          (last ? 0 : (k + depth) * a.col_stride);
          const bool ahead = a.col_stride == 1 && row + 2 * kSignedRows <= a.rows;
          loops.add_signed(sum, lines, depth, codes + k * entries, entries,
                           ahead ? next : lines, ahead ? a.row_stride : 0);
        }
        scale_block(sum, size * kSignedRows, magnitude);
        kernels.stage(out + row * y.row_stride, y.row_stride, {sum, kDTypeOf<T>, 1, kSignedRows}, count, y.cols, y.cols);
      }
    }
  });
  return {};
}

template Status gram_matrix<float>(Workbench&, const float*, int64_t, int64_t, double*);
template Status gram_matrix<double>(Workbench&, const double*, int64_t, int64_t, double*);
template Status multiply_by_upper<float>(Workbench&, float*, int64_t, int64_t, const double*);
template Status multiply_by_upper<double>(Workbench&, double*, int64_t, int64_t, const double*);
template Status multiply_by_sparse_signs<float>(Workbench&, const MatrixView&, uint64_t, int64_t, double,
                                                const MutableMatrixView&);
template Status multiply_by_sparse_signs<double>(Workbench&, const MatrixView&, uint64_t, int64_t, double,
                                                 const MutableMatrixView&);

}  // namespace lrk::cpu
