#include "cpu/sketch/small_dense.h"

#include <algorithm>
#include <cmath>

#include "cpu/sketch/vector_loops.h"

namespace lrk::cpu {

double cholesky(double* gram, int64_t size, double least) {
  constexpr int64_t kBlock = 4;
  const VectorLoops& loops = vector_loops();
  double smallest = 1;
  // Rows of R are done in order, four before the rows below lose their outer products, so that every loop runs along a
  // row. A row's first entry keeps the diagonal entry that it began with.
  for (int64_t i = 1; i < size; ++i) gram[i * size] = gram[i * size + i];
  for (int64_t first = 0; first < size; first += kBlock) {
    const int64_t last = std::min(size, first + kBlock);
    for (int64_t k = first; k < last; ++k) {
      double* const row = gram + k * size;
      for (int64_t p = first; p < k; ++p)
        loops.add_scaled(row + k, -gram[p * size + k], gram + p * size + k, size - k);
      const double diagonal = row[k];  // what is left of it
      const double whole = row[0];
      if (!(diagonal > least * whole) || !std::isfinite(diagonal)) return 0;
      smallest = std::min(smallest, diagonal / whole);
      const double pivot = std::sqrt(diagonal);
      for (int64_t j = k + 1; j < size; ++j) row[j] /= pivot;
      row[k] = pivot;
    }
    if (last == size) break;
    for (int64_t i = last; i < size; ++i) {
      double factors[kBlock];
      for (int64_t p = 0; p < kBlock; ++p) factors[p] = gram[(first + p) * size + i];
      loops.subtract_four(gram + i * size + i, factors, gram + first * size + i, size, size - i);
    }
  }
  for (int64_t k = 1; k < size; ++k) std::fill_n(gram + k * size, k, 0.0);
  return smallest;
}

void invert_upper(const double* r, int64_t size, double* inverse) {
  const VectorLoops& loops = vector_loops();
  // From R X = I, rows from the last one on: X_i = (e_i - sum over k > i of R_ik X_k) / R_ii.
  for (int64_t i = size - 1; i >= 0; --i) {
    double* const row = inverse + i * size;
    std::fill_n(row, size, 0.0);
    row[i] = 1;
    int64_t k = i + 1;
    for (; k + 4 <= size; k += 4)  // X_k is zero before its diagonal
      loops.subtract_four(row + k, r + i * size + k, inverse + k * size + k, size, size - k);
    for (; k < size; ++k) loops.add_scaled(row + k, -r[i * size + k], inverse + k * size + k, size - k);
    for (int64_t j = i; j < size; ++j) row[j] /= r[i * size + i];
  }
}

namespace {

/// a becomes tridiagonal, with `diagonal` and `below`; the unit vectors of the reflections stay in the columns' places
/// of `vectors`, a row each.
void tridiagonalize(double* a, int64_t size, double* diagonal, double* below, double* vectors) {
  const VectorLoops& loops = vector_loops();
  for (int64_t k = 0; k + 2 < size; ++k) {
    const int64_t first = k + 1, count = size - first;
    double* const v = vectors + k * size + first;
    std::copy_n(a + k * size + first, count, v);  // row k is column k
    const double norm = length(v, count);
    diagonal[k] = a[k * size + k];
    below[k] = v[0];
    if (norm == 0) continue;
    const double sign = v[0] < 0 ? -1 : 1;
    below[k] = -sign * norm;
    for (int64_t i = 0; i < count; ++i) v[i] /= norm;
    v[0] += sign;
    const double scale = 1 / std::sqrt(loops.dot(v, v, count));
    for (int64_t i = 0; i < count; ++i) v[i] *= scale;
    // H A H = A - v wT - w vT with w = 2 (A v - (vT A v) v).
    double* const w = vectors + (size - 1) * size + first;  // the last row is not a reflection
    for (int64_t i = 0; i < count; ++i) w[i] = 2 * loops.dot(a + (first + i) * size + first, v, count);
    loops.add_scaled(w, -loops.dot(v, w, count), v, count);
    for (int64_t i = 0; i < count; ++i) loops.subtract_two(a + (first + i) * size + first, v[i], w, w[i], v, count);
  }
  for (int64_t k = std::max<int64_t>(size - 2, 0); k < size; ++k) diagonal[k] = a[k * size + k];
  if (size >= 2) below[size - 2] = a[(size - 2) * size + size - 1];
}

}  // namespace

bool symmetric_eigen(double* a, int64_t size, double* values, double* work) {
  if (size == 0) return true;
  const VectorLoops& loops = vector_loops();
  double *const vectors = work, *const below = work + size * size, *const basis = below + size * size;
  std::fill_n(vectors, size * size, 0.0);
  std::fill_n(below, size, 0.0);
  tridiagonalize(a, size, values, below, vectors);
  // The rows of `basis` are the columns of H_0 H_1 ...: each reflection meets the rows as vectors.
  std::fill_n(basis, size * size, 0.0);
  for (int64_t i = 0; i < size; ++i) basis[i * size + i] = 1;
  for (int64_t k = size - 3; k >= 0; --k) {
    const double* const v = vectors + k * size + k + 1;
    const int64_t count = size - k - 1;
    for (int64_t i = k + 1; i < size; ++i) {
      double* const row = basis + i * size + k + 1;
      loops.add_scaled(row, -2 * loops.dot(v, row, count), v, count);
    }
  }
  // What is below a rounding of the largest entry is zero. Small eigenvalues of a graded matrix lose their digits so,
  // but a test relative to the neighbours may wait for underflow.
  double largest = 0;
  for (int64_t i = 0; i < size; ++i) largest = std::max({largest, std::fabs(values[i]), std::fabs(below[i])});
  const double negligible = 0x1p-54 * largest;
  // QL with implicit shifts; every rotation of two neighbouring rows of `basis` runs along them.
  for (int64_t low = 0; low < size; ++low) {
    for (int iteration = 0;; ++iteration) {
      int64_t high = low;
      while (high + 1 < size && std::fabs(below[high]) > negligible) ++high;
      if (high == low) break;
      if (iteration == 60) return false;
      const double ratio = (values[low + 1] - values[low]) / (2 * below[low]);
      double shifted = values[high] - values[low] + below[low] / (ratio + std::copysign(std::hypot(ratio, 1.0), ratio));
      double sine = 1, cosine = 1, carried = 0;
      int64_t i = high - 1;
      for (; i >= low; --i) {
        const double bulge = sine * below[i], along = cosine * below[i];
        const double radius = std::hypot(bulge, shifted);
        below[i + 1] = radius;
        if (radius == 0) {  // a rotation that splits the matrix
          values[i + 1] -= carried, below[high] = 0;
          break;
        }
        sine = bulge / radius, cosine = shifted / radius;
        const double moved = values[i + 1] - carried, turn = (values[i] - moved) * sine + 2 * cosine * along;
        carried = sine * turn;
        values[i + 1] = moved + carried;
        shifted = cosine * turn - along;
        loops.rotate(basis + i * size, basis + (i + 1) * size, cosine, sine, size);
      }
      if (i >= low) continue;
      values[low] -= carried, below[low] = shifted, below[high] = 0;
    }
  }
  // Descending, by selection: `size` swaps of rows at most.
  for (int64_t i = 0; i < size; ++i) {
    const int64_t largest = std::max_element(values + i, values + size) - values;
    if (largest != i) {
      std::swap(values[i], values[largest]);
      std::swap_ranges(basis + i * size, basis + (i + 1) * size, basis + largest * size);
    }
  }
  std::copy_n(basis, size * size, a);
  return true;
}

}  // namespace lrk::cpu
