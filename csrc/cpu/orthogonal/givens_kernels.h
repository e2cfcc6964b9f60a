// Passes over a tile of rows, each of which computes several rounds in registers. One table per instruction set.
#pragma once

#include <cstdint>

namespace lrk::cpu {

/// How consecutive rounds are computed together.
enum class GivensPassKind {
  kWithinVector,   // strides below the vector's width, powers of two: partners are lanes of one vector
  kAcrossVectors,  // up to three rounds, distinct powers of two that divide the features evenly: partners are vectors
  kAnyStride,      // one round, any stride
};

/// Consecutive rounds, in the order in which they are applied. cos and sin of the whole pass lie in the order in which
/// the kernel reads them:
///   kWithinVector   per vector, per round: cos and signed sin of every lane (-sin for the first of a pair)
///   kAcrossVectors  per group of 2^rounds vectors, per round, per pair: cos, sin
///   kAnyStride      per pair, a block of `stride` pairs after the other: all cos, then all sin
/// and so do the sums of the backward pass, with one number where there are two.
struct GivensPass {
  static constexpr int kMostRounds = 8, kMostAcross = 3;
  GivensPassKind kind;
  int rounds;
  int64_t strides[kMostRounds];
  int64_t span;        // a range of columns that starts and ends at multiples of this can be computed by itself
  int64_t first_round;
  int64_t coefficients, sums;  // where its own begin
};

template <class T>
struct GivensKernels {
  int lanes;

  /// All rounds of a pass, on columns [begin, end) of `rows` rows of data.
  void (*rotate)(const GivensPass& pass, int64_t features, const T* coefficients, T* data, int64_t stride, int64_t rows,
                 int64_t begin, int64_t end);
  /// Undoes all rounds of a pass on y and its gradient, and adds g_j y_i - g_i y_j of every pair to `sums`
  /// (kWithinVector: g_partner y of every lane).
  void (*undo)(const GivensPass& pass, int64_t features, const T* coefficients, T* y, T* grad, int64_t stride,
               int64_t rows, int64_t begin, int64_t end, T* sums);
  /// cos and sin of `count` angles.
  void (*cos_sin)(const T* angles, int64_t count, T* cos, T* sin);
};

template <class T>
const GivensKernels<T>& givens_kernels_portable();
template <class T>
const GivensKernels<T>& givens_kernels_avx2();
template <class T>
const GivensKernels<T>& givens_kernels_avx512();
/// The table of selected_cpu_isa().
template <class T>
const GivensKernels<T>& selected_givens_kernels();

}  // namespace lrk::cpu
