// The loops of this family that an instruction set makes faster, a table each, as cpu/gemm/kernels.h has of tiles.
#pragma once

#include <cstdint>

namespace lrk::cpu {

/// Rows that add_signed works on at once: a whole number of every instruction set's vectors.
constexpr int64_t kSignedRows = 16;

struct VectorLoops {
  /// sum of a[i] b[i], in lanes of a fixed order.
  double (*dot)(const double* a, const double* b, int64_t count);
  /// y += factor x.
  void (*add_scaled)(double* y, double factor, const double* x, int64_t count);
  /// y -= factors[0] x[0] + ... + factors[3] x[3], rows of `stride`: y is read and written once for four.
  void (*subtract_four)(double* y, const double* factors, const double* x, int64_t stride, int64_t count);
  /// y -= first a + second b.
  void (*subtract_two)(double* y, double first, const double* a, double second, const double* b, int64_t count);
  /// (a, b) = (cosine a - sine b, sine a + cosine b).
  void (*rotate)(double* a, double* b, double cosine, double sine, int64_t count);
};

template <class T>
struct SignedLoops {
  /// sums[t][row] += or -= values[k][row] for each of the `entries` codes of k; a code is 2 t, plus 1 for a minus. Both
  /// arrays have kSignedRows entries a line. Meanwhile kSignedRows rows at `fetch`, `fetch_stride` apart and as long as
  /// `count`, wanted next, come to the second level cache: rows of a large matrix are too many streams for hardware.
  void (*add_signed)(T* sums, const T* values, int64_t count, const int32_t* codes, int64_t entries, const T* fetch,
                     int64_t fetch_stride);
};

const VectorLoops& vector_loops_portable();
const VectorLoops& vector_loops_avx2();
const VectorLoops& vector_loops_avx512();
template <class T>
const SignedLoops<T>& signed_loops_portable();
template <class T>
const SignedLoops<T>& signed_loops_avx2();
template <class T>
const SignedLoops<T>& signed_loops_avx512();

/// The tables of selected_cpu_isa().
const VectorLoops& vector_loops();
template <class T>
const SignedLoops<T>& signed_loops();

/// The length of a vector whose squares may overflow or vanish.
double length(const double* x, int64_t count);

}  // namespace lrk::cpu
