// The end of every QR: Gram and Schmidt's process in float64 with as many rounds as a column needs, for the matrices that
// the passes of deferred_cholesky.cuh left unfinished, which is where random columns depended on others time and again.
// They do in matrices of a few rows: of two random columns of signs of two rows every second pair is singular. For all
// others the launch reads a flag.
//
// Always ends: a column of which too little is left becomes the unit vector of the row in which the columns before it have
// the least. What is left of that one beside j of them is at least 1 - j / rows, squared, and two rounds make it orthogonal.
// A block of threads a matrix, which is slow for a large one: rows cols^2 multiply-adds a round.
#pragma once

#include "cuda/sketch/block_fold.cuh"
#include "cuda/sketch/tall_product_launch.cuh"
#include "device/sketch_rules.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kGramSchmidtThreads = kFoldThreads, kGramSchmidtWarps = kGramSchmidtThreads / 32;

struct GramSchmidtParameters {
  MutableStack q;
  int64_t rows = 0;
  int size = 0;
  Progress progress;  // of the passes, this one counted as their next
};

constexpr size_t gram_schmidt_shared_bytes(int64_t size) { return size_t(size + 2 * kGramSchmidtThreads) * sizeof(double); }

/// One matrix's columns, by one block.
class GramSchmidt {
 public:
  __device__ GramSchmidt(const GramSchmidtParameters& parameters, int64_t n)
      : q_(parameters.q), rows_(parameters.rows), n_(n), shares_(dynamic_shared<double>()) {}

  /// Column j becomes orthogonal to those before and of length 1, unless less than kDependent of it is left.
  __device__ __forceinline__ bool orthogonalize(int j) const {
    constexpr int kMostRounds = 4;
    constexpr double kEnough = 0.5;  // of a unit column left by a round: what it still shares is a rounding
    if (normalize(j) == 0.0) return false;
    double left = 1.0;
#pragma unroll 1
    for (int round = 0; round < kMostRounds && left > kDependent; ++round) {
      project(j);
      const double length = normalize(j);
      if (length > kEnough) return true;
      left *= length;
    }
    return false;
  }

  /// Column j becomes the unit vector of the row where the columns before it have the least, of equal ones the first.
  __device__ __forceinline__ void replace(int j) const {
    const int thread = int(threadIdx.x);
    double least = 1e300;
    int64_t at = rows_;
    for (int64_t i = thread; i < rows_; i += kGramSchmidtThreads) {
      double sum = 0.0;
      for (int k = 0; k < j; ++k) sum += double(q_.load(n_, i, k)) * double(q_.load(n_, i, k));
      if (sum < least) least = sum, at = i;
    }
    double* const sums = shares_;
    double* const places = shares_ + kGramSchmidtThreads;
    sums[thread] = least, places[thread] = double(at);
    __syncthreads();
#pragma unroll 1
    for (int half = kGramSchmidtThreads / 2; half > 0; half /= 2) {
      if (thread < half) {
        const double sum = sums[thread + half], place = places[thread + half];
        if (sum < sums[thread] || (sum == sums[thread] && place < places[thread])) sums[thread] = sum, places[thread] = place;
      }
      __syncthreads();
    }
    const int64_t row = int64_t(places[0]);
    __syncthreads();
    for (int64_t i = thread; i < rows_; i += kGramSchmidtThreads) q_.store(n_, i, j, i == row ? 1.0f : 0.0f);
    __syncthreads();
  }

 private:
  /// Divides column j by its length, which is returned, if it has one.
  __device__ __forceinline__ double normalize(int j) const {
    double sum = 0.0;
    for (int64_t i = int(threadIdx.x); i < rows_; i += kGramSchmidtThreads) {
      const double entry = double(q_.load(n_, i, j));
      sum += entry * entry;
    }
    const double length = sqrt(fold_block(shares_, sum, add));
    for (int64_t i = int(threadIdx.x); i < rows_ && length > 0.0; i += kGramSchmidtThreads)
      q_.store(n_, i, j, float(double(q_.load(n_, i, j)) / length));
    __syncthreads();
    return length;
  }

  /// Column j loses what it shares with the columns before: 32 of them at a time are multiplied with it, rows dealt to
  /// the warps, so that memory is read along rows.
  __device__ __forceinline__ void project(int j) const {
    const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
    double* const factors = shares_ + 2 * kGramSchmidtThreads;
#pragma unroll 1
    for (int first = 0; first < j; first += 32) {
      const int k = first + lane;
      double sum = 0.0;
      for (int64_t i = warp; k < j && i < rows_; i += kGramSchmidtWarps)
        sum += double(q_.load(n_, i, k)) * double(q_.load(n_, i, j));
      shares_[thread] = sum;
      __syncthreads();
      if (warp == 0 && k < j) {
        for (int other = 1; other < kGramSchmidtWarps; ++other) sum += shares_[other * 32 + lane];
        factors[k] = sum;
      }
      __syncthreads();
    }
    for (int64_t i = thread; i < rows_; i += kGramSchmidtThreads) {
      double value = double(q_.load(n_, i, j));
      for (int k = 0; k < j; ++k) value -= factors[k] * double(q_.load(n_, i, k));
      q_.store(n_, i, j, float(value));
    }
    __syncthreads();
  }

  const MutableStack& q_;
  const int64_t rows_, n_;
  double* const shares_;
};

/// A block a matrix.
__global__ void __launch_bounds__(kGramSchmidtThreads) gram_schmidt_kernel(const GramSchmidtParameters parameters) {
  const int64_t n = blockIdx.x;
  if (parameters.progress.is_over(n)) return;
  const GramSchmidt columns(parameters, n);
#pragma unroll 1
  for (int j = 0; j < parameters.size; ++j) {
    if (columns.orthogonalize(j)) continue;
    columns.replace(j);
    columns.orthogonalize(j);
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
