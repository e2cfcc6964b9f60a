#include "cpu/sketch/tall_products.h"

#include <cmath>

#include "cpu/sketch/sketch_matrix.h"
#include "cpu/sketch/vector_loops.h"

namespace lrk::cpu {
namespace {

inline int64_t round_up(int64_t value, int64_t to) { return ceil_div(value, to) * to; }

/// Rows of lines an odd number of cache lines apart do not compete for the same places of a cache.
template <class T>
int64_t staged_stride(int64_t cols, int64_t tile_cols) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(T));
  return round_up(round_up(cols, tile_cols), kLine) / kLine % 2 == 0 ? round_up(cols, tile_cols) + kLine
                                                                      : round_up(cols, tile_cols);
}

}  // namespace

template <class T>
Status gram_matrix(Workbench& bench, const T* x, int64_t rows, int64_t cols, double* gram) {
  constexpr int64_t kMostParts = 8, kDepth = 64;
  constexpr int64_t kMostCols = 512;  // parts of wider matrices would not stay in a cache
  if (cols > kMostCols) {
    const MatrixView view = view_of<T>(x, rows, cols);
    return bench.product(view.transposed(), view, view_of(gram, cols, cols));
  }
  const Kernels<double>& kernels = selected_kernels<double>();
  const int64_t height = kernels.tile_rows, width = kernels.tile_cols;
  const int64_t part_rows = round_up(balanced_part(rows, ceil_div(rows, kMostParts)), kDepth);
  const int64_t parts = ceil_div(rows, part_rows);
  const int64_t stride = staged_stride<double>(cols, width), padded_rows = round_up(cols, height);
  const Scratch::Frame frame(bench.scratch);
  double* const staged = bench.scratch.take<double>(parts * kDepth * stride);
  double* const sums = bench.scratch.take<double>(parts * padded_rows * stride);
  if (bench.scratch.failed()) return bench.scratch.failure("orthonormalize");
  run_tasks(bench.context, parts, rows * cols * cols / 2, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      double* const block = staged + part * kDepth * stride;
      double* const sum = sums + part * padded_rows * stride;
      const int64_t last = std::min(rows, (part + 1) * part_rows);
      for (int64_t row = part * part_rows; row < last; row += kDepth) {
        const int64_t depth = std::min(kDepth, last - row);
        kernels.stage(block, stride, {x + row * cols, kDTypeOf<T>, cols, 1}, depth, cols, stride);
        for (int64_t i = 0; i < cols; i += height)
          for (int64_t j = i / width * width; j < cols; j += width)
            kernels.multiply(std::min(height, cols - i), depth, block + i, stride, block + j, stride,
                             sum + i * stride + j, stride, row > part * part_rows, block, 0);
      }
    }
  });
  for (int64_t i = 0; i < cols; ++i) {
    double* const row = gram + i * cols;
    std::copy_n(sums + i * stride + i, cols - i, row + i);
    for (int64_t part = 1; part < parts; ++part)
      vector_loops().add_scaled(row + i, 1, sums + (part * padded_rows + i) * stride + i, cols - i);
  }
  for (int64_t i = 0; i < cols; ++i)
    for (int64_t j = 0; j < i; ++j) gram[i * cols + j] = gram[j * cols + i];
  return {};
}

template <class T>
Status multiply_by_upper(Workbench& bench, T* x, int64_t rows, int64_t cols, const double* r) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t height = kernels.tile_rows, width = kernels.tile_cols, task_rows = 8 * height;
  const int64_t stride = staged_stride<T>(cols, width), tasks = ceil_div(rows, task_rows);
  const Scratch::Frame frame(bench.scratch);
  T* const upper = bench.scratch.take<T>(cols * stride);
  T* const panels = bench.scratch.take<T>(tasks * height * cols);
  T* const products = bench.scratch.take<T>(tasks * height * stride);
  if (bench.scratch.failed()) return bench.scratch.failure("orthonormalize");
  for (int64_t i = 0; i < cols; ++i) {
    std::fill_n(upper + i * stride, stride, T(0));
    for (int64_t j = i; j < cols; ++j) upper[i * stride + j] = T(r[i * cols + j]);
  }
  run_tasks(bench.context, tasks, rows * cols * cols / 2, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      T *const panel = panels + task * height * cols, *const product = products + task * height * stride;
      for (int64_t row = task * task_rows; row < std::min(rows, (task + 1) * task_rows); row += height) {
        const int64_t count = std::min(height, rows - row);
        kernels.stage(panel, height, {x + row * cols, kDTypeOf<T>, 1, cols}, cols, count, height);
        for (int64_t j = 0; j < cols; j += width)
          kernels.multiply(count, std::min(cols, j + width), panel, height, upper + j, stride, product + j, stride,
                           false, panel, 0);
        for (int64_t i = 0; i < count; ++i) std::copy_n(product + i * stride, cols, x + (row + i) * cols);
      }
    }
  });
  return {};
}

template <class T>
Status multiply_by_sparse_signs(Workbench& bench, const MatrixView& a, uint64_t seed, int64_t size, T* y) {
  constexpr int64_t kStagedCols = 128, kBlocksATask = 8;
  const Kernels<T>& kernels = selected_kernels<T>();
  const SignedLoops<T>& loops = signed_loops<T>();
  const int64_t entries = std::min(size, kSparseSigns), blocks = ceil_div(a.rows, kSignedRows);
  const int64_t tasks = ceil_div(blocks, kBlocksATask);
  const Scratch::Frame frame(bench.scratch);
  int32_t* const codes = bench.scratch.take<int32_t>(a.cols * entries);
  T* const staged = bench.scratch.take<T>(tasks * kStagedCols * kSignedRows);
  T* const sums = bench.scratch.take<T>(tasks * size * kSignedRows);
  if (bench.scratch.failed()) return bench.scratch.failure("range_finder");
  run_tasks(bench.context, ceil_div(a.cols, kStagedCols), a.cols * 256, [&](int64_t begin, int64_t end) {
    int64_t places[kSparseSigns];
    bool negative[kSparseSigns];
    for (int64_t k = begin * kStagedCols; k < std::min(a.cols, end * kStagedCols); ++k) {
      sparse_sign_row(seed, k, size, places, negative);
      for (int64_t t = 0; t < entries; ++t) codes[k * entries + t] = int32_t(2 * places[t] + negative[t]);
    }
  });
  const T scale = T(1 / std::sqrt(double(entries)));
  run_tasks(bench.context, tasks, a.rows * a.cols * entries, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      T *const lines = staged + task * kStagedCols * kSignedRows, *const sum = sums + task * size * kSignedRows;
      for (int64_t block = task * kBlocksATask; block < std::min(blocks, (task + 1) * kBlocksATask); ++block) {
        const int64_t row = block * kSignedRows, count = std::min(kSignedRows, a.rows - row);
        std::fill_n(sum, size * kSignedRows, T(0));
        for (int64_t k = 0; k < a.cols; k += kStagedCols) {
          const int64_t depth = std::min(kStagedCols, a.cols - k);
          kernels.stage(lines, kSignedRows, source_at(a.transposed(), k, row), depth, count, kSignedRows);
          loops.add_signed(sum, lines, depth, codes + k * entries, entries);
        }
        scale_block(sum, size * kSignedRows, scale);
        kernels.stage(y + row * size, size, {sum, kDTypeOf<T>, 1, kSignedRows}, count, size, size);
      }
    }
  });
  return {};
}

template Status gram_matrix<float>(Workbench&, const float*, int64_t, int64_t, double*);
template Status gram_matrix<double>(Workbench&, const double*, int64_t, int64_t, double*);
template Status multiply_by_upper<float>(Workbench&, float*, int64_t, int64_t, const double*);
template Status multiply_by_upper<double>(Workbench&, double*, int64_t, int64_t, const double*);
template Status multiply_by_sparse_signs<float>(Workbench&, const MatrixView&, uint64_t, int64_t, float*);
template Status multiply_by_sparse_signs<double>(Workbench&, const MatrixView&, uint64_t, int64_t, double*);

}  // namespace lrk::cpu
