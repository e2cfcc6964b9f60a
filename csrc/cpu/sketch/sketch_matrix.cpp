#include "cpu/sketch/sketch_matrix.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/gemm/block.h"

namespace lrk::cpu {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int64_t kRowsATask = 256;

/// Calls body(row, its first entry) for every row, blocks of rows a task.
template <class T, class Body>
void for_rows(const MutableMatrixView& matrix, const Context& context, const Body& body) {
  T* const data = static_cast<T*>(matrix.data);
  const int64_t tasks = ceil_div(matrix.rows, kRowsATask);
  run_tasks(context, tasks, 16 * matrix.rows * matrix.cols, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kRowsATask; row < std::min(end * kRowsATask, matrix.rows); ++row)
      body(row, data + row * matrix.row_stride);
  });
}

template <class T>
void rademacher(const SketchMatrixArgs& args, const Context& context) {
  const int64_t features = args.matrix.rows, size = args.matrix.cols;
  const T entry = T(1 / std::sqrt(double(size)));
  for_rows<T>(args.matrix, context, [&](int64_t i, T* row) {
    for (int64_t first = 0; first < size; first += 32) {
      const uint32_t word = philox_element(args.seed, uint64_t(first / 32 * features + i));
      const int64_t count = std::min<int64_t>(32, size - first);
      for (int64_t j = 0; j < count; ++j) row[first + j] = (word >> j) & 1 ? -entry : entry;
    }
  });
}

template <class T>
void sparse_sign(const SketchMatrixArgs& args, const Context& context) {
  const int64_t size = args.matrix.cols;
  for_rows<T>(args.matrix, context, [&](int64_t i, T* row) {
    int64_t columns[kSparseSigns];
    bool negative[kSparseSigns];
    const int64_t count = sparse_sign_row(args.seed, i, size, columns, negative);
    const T entry = T(1 / std::sqrt(double(count)));
    std::fill_n(row, size, T(0));
    for (int64_t t = 0; t < count; ++t) row[columns[t]] = negative[t] ? -entry : entry;
  });
}

template <class T>
void gaussian(const SketchMatrixArgs& args, const Context& context) {
  const int64_t features = args.matrix.rows, size = args.matrix.cols;
  const double scale = 1 / std::sqrt(double(size));
  for_rows<T>(args.matrix, context, [&](int64_t i, T* row) {
    for (int64_t j = 0; j < size; j += 2) {
      const uint64_t pair = uint64_t(j / 2 * features + i);
      const PhiloxBlock block = philox4x32_10(args.seed, pair / 2);
      const double u = (block.word[pair % 2 * 2] + 1.0) / 4294967296.0, v = block.word[pair % 2 * 2 + 1] / 4294967296.0;
      const double radius = std::sqrt(-2 * std::log(u)) * scale;
      row[j] = T(radius * std::cos(2 * kPi * v));
      if (j + 1 < size) row[j + 1] = T(radius * std::sin(2 * kPi * v));
    }
  });
}

template <class T>
void hadamard(const SketchMatrixArgs& args, const Context& context) {
  const int64_t features = args.matrix.rows, size = args.matrix.cols;
  int64_t whole = 1;
  while (whole < features) whole *= 2;
  std::vector<uint64_t> keys(static_cast<size_t>(whole));  // word and index: sorted, equal words stay in order
  for (uint64_t c = 0; c < keys.size(); ++c) keys[c] = uint64_t(philox_element(args.seed, c)) << 32 | c;
  std::partial_sort(keys.begin(), keys.begin() + size, keys.end());
  const T entry = T(1 / std::sqrt(double(size)));
  for_rows<T>(args.matrix, context, [&](int64_t i, T* row) {
    const uint32_t flip = philox_element(args.seed, uint64_t(whole + i / 32)) >> (i % 32) & 1;
    for (int64_t j = 0; j < size; ++j) {
      uint32_t parity = uint32_t(i) & uint32_t(keys[size_t(j)]);
      for (int shift = 16; shift > 0; shift /= 2) parity ^= parity >> shift;
      row[j] = ((parity & 1) ^ flip) ? -entry : entry;
    }
  });
}

template <class T>
void dct(const SketchMatrixArgs& args, const Context& context) {
  const int64_t features = args.matrix.rows, size = args.matrix.cols;
  const double* const columns = static_cast<const double*>(args.columns.data);
  for_rows<T>(args.matrix, context, [&](int64_t i, T* row) {
    for (int64_t j = 0; j < size; ++j) {
      const int64_t f = columns != nullptr ? int64_t(columns[j * args.columns.col_stride]) : j;
      // The angle's whole turns drop out in integers, so that it stays exact for every number of features.
      const int64_t quarter = (2 * i + 1) * f % (4 * features);
      const double length = std::sqrt((f == 0 ? 1.0 : 2.0) / double(features));
      row[j] = T(length * std::cos(kPi / 2 * double(quarter) / double(features)));
    }
  });
}

}  // namespace

template <class T>
void fill_sketch_matrix(const SketchMatrixArgs& args, const Context& context) {
  if (args.matrix.rows == 0 || args.matrix.cols == 0) return;
  switch (args.kind) {
    case SketchKind::kRademacher: return rademacher<T>(args, context);
    case SketchKind::kSparseSign: return sparse_sign<T>(args, context);
    case SketchKind::kGaussian: return gaussian<T>(args, context);
    case SketchKind::kHadamard: return hadamard<T>(args, context);
    case SketchKind::kDct: return dct<T>(args, context);
  }
}

template void fill_sketch_matrix<float>(const SketchMatrixArgs&, const Context&);
template void fill_sketch_matrix<double>(const SketchMatrixArgs&, const Context&);

}  // namespace lrk::cpu
