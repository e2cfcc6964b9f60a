// Launches of tall_product.cuh, which is compiled once.
#pragma once

#include "cuda/sketch/matrix_stack.cuh"
#include "lrk/context.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// Passes of an iteration of which matrix n has had enough after the one called finished[n].
struct Progress {
  const int* finished = nullptr;  // read from the second pass on
  int pass = 0;

  __device__ __forceinline__ bool is_over(int64_t n) const { return pass > 0 && finished[n] < pass; }
};

/// Sums of xT y in float64, on and above the diagonal: [count, parts, x_cols, y_cols].
struct TallProduct {
  int64_t count = 0, rows = 0, x_cols = 0, y_cols = 0, parts = 1;

  /// Cuts the rows so that the device is filled; a Gram matrix's parts are added up by one block each.
  TallProduct(int64_t count, int64_t rows, int64_t x_cols, int64_t y_cols, const Context& context);
  size_t bytes() const { return size_t(count * parts * x_cols * y_cols) * sizeof(double); }
  Status check(const char* operation) const;
  Status run(const ConstStack& x, const ConstStack& y, double* sums, const Progress& progress,
             const Context& context) const;
  /// r = the sum of the parts, no less than 0 on the diagonal and 0 below it.
  Status sum_triangle(const double* sums, const MutableStack& r, const Context& context) const;
};

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
