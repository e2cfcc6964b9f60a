// Singular value decompositions R = Y diag(s) WT of small square matrices by one-sided Jacobi rotations (Hestenes 1958), in
// float64; a block of threads a matrix.
//
// Rotations of pairs of rows make the rows of R orthogonal: they become s_i w_i, and no product of the rotations is kept.
// Y is R W diag(1/s), whose error in a column is a rounding of float64 times s_0 / s_i: enough, once it is made
// orthonormal again by the caller, since what is left of it in Y diag(s) is a rounding of s_0. So are the columns of W that
// belong to no singular value, which are left zero.
//
// Cost: a sweep visits size^2 / 2 pairs and spends 10 size operations on each, and eight sweeps are the rule: 0.3 G for
// 192 rows; but all rows pass through shared memory once a round of size / 2 pairs, 16 size^2 bytes at 128 a cycle, which
// takes as long for 96 rows and is the bound. Rows lie in shared memory up to 142 of them on sm_80 and 169 on sm_90, and
// beyond that in L2, at half the speed or less. Idea: a warp a pair, rounds of disjoint pairs (a round-robin tournament)
// with one barrier each; of two rows the longer one is put first, which saves sweeps (de Rijk 1989).
//
// The floor of this form, of 192 rows, counted and not measured: eight sweeps of 191 rounds are 1528 barriers, and between
// two of them all rows are read twice and written once: 0.9 MB at 128 bytes a cycle, 7 k cycles, 11 M in all or some 6 ms of
// one multiprocessor while all others wait. A rotation's chain of sums over a warp, a root and two divisions is 1 k cycles
// more that 16 warps hide only in part. That is several times all else in an rsvd of 128 columns. What would be faster:
// blocks of 16 rows instead of single ones. A block of threads takes two of them, 32 x 192 in shared memory, makes the 32
// x 32 Gram matrix, diagonalises that (a rotation costs 32 entries instead of 192, in registers of one warp) and multiplies
// the rows by what it found: 11 rounds a sweep, a launch of six blocks each, so that of six sweeps 66 launches of about
// 10 us are left, 0.7 ms; and R transposed once more by a QR with pivots before the first sweep would halve the sweeps
// (Drmac and Veselic, SIMAX 2008). A GPU has to say whether either is worth its code.
#pragma once

#include "cuda/sketch/matrix_stack.cuh"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kJacobiThreads = 512, kJacobiWarps = kJacobiThreads / 32, kMostJacobiSweeps = 30;
/// Rows are orthogonal up to this: float32 rounds more.
constexpr double kJacobiPrecision = 0x1p-28;

struct JacobiParameters {
  ConstStack r;  // [size, size]
  int size = 0, rank = 0;
  bool in_shared = true;
  double* rows = nullptr;   // [count, size, size] where they do not lie in shared memory
  float* values = nullptr;  // [count, rank], descending
  MutableStack w, y;        // [size, rank]
};

constexpr size_t jacobi_shared_bytes(int64_t size, bool in_shared) {
  return size_t(size + kJacobiWarps + (in_shared ? size * size : 0)) * sizeof(double);
}

__device__ __forceinline__ double sum_of_warp(double value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

/// Makes two rows orthogonal, the longer one first; returns whether they were not. By one warp.
__device__ __forceinline__ bool orthogonalize_rows(double* first, double* second, int size) {
  const int lane = int(threadIdx.x) % 32;
  double alpha = 0.0, beta = 0.0, gamma = 0.0;
  for (int j = lane; j < size; j += 32) {
    const double a = first[j], b = second[j];
    alpha += a * a, beta += b * b, gamma += a * b;
  }
  alpha = sum_of_warp(alpha), beta = sum_of_warp(beta), gamma = sum_of_warp(gamma);
  if (!(fabs(gamma) > kJacobiPrecision * sqrt(alpha) * sqrt(beta))) return false;
  // The smaller of the two angles, then the rows change places if the second one is the longer.
  const double zeta = (beta - alpha) / (2.0 * gamma);
  const double tangent = copysign(1.0 / (fabs(zeta) + sqrt(1.0 + zeta * zeta)), zeta);
  const double cosine = 1.0 / sqrt(1.0 + tangent * tangent), sine = cosine * tangent;
  const bool exchange = alpha - tangent * gamma < beta + tangent * gamma;
  for (int j = lane; j < size; j += 32) {
    const double a = first[j], b = second[j], x = cosine * a - sine * b, y = sine * a + cosine * b;
    first[j] = exchange ? y : x, second[j] = exchange ? x : y;
  }
  return true;
}

/// A block a matrix.
__global__ void __launch_bounds__(kJacobiThreads) jacobi_kernel(const JacobiParameters parameters) {
  const int size = parameters.size, thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int64_t n = blockIdx.x;
  double* const lengths = dynamic_shared<double>();
  double* const of_warps = lengths + size;
  double* const rows = parameters.in_shared ? of_warps + kJacobiWarps : parameters.rows + n * size * size;
  // Everything is divided by the largest entry's power of two: rows of any scale have squares.
  double largest = 0.0;
#pragma unroll 1
  for (int e = thread; e < size * size; e += kJacobiThreads) {
    const double entry = double(parameters.r.load(n, e / size, e % size));
    rows[e] = entry;
    largest = fabs(entry) > largest || entry != entry ? fabs(entry) : largest;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const double other = __shfl_xor_sync(0xffffffffu, largest, distance);
    largest = other > largest || other != other ? other : largest;
  }
  if (lane == 0) of_warps[warp] = largest;
  __syncthreads();
  largest = 0.0;
  for (int other = 0; other < kJacobiWarps; ++other) {
    const double value = of_warps[other];
    largest = value > largest || value != value ? value : largest;
  }
  __syncthreads();
  if (largest - largest != 0.0) {  // NaN or Inf: nothing here is a singular vector
    const float nan = float(0.0 / 0.0);
#pragma unroll 1
    for (int e = thread; e < size * parameters.rank; e += kJacobiThreads) {
      parameters.w.store(n, e / parameters.rank, e % parameters.rank, nan);
      parameters.y.store(n, e / parameters.rank, e % parameters.rank, nan);
    }
    for (int i = thread; i < parameters.rank; i += kJacobiThreads) parameters.values[n * parameters.rank + i] = nan;
    return;
  }
  int exponent = 0;
  if (largest > 0.0) frexp(largest, &exponent);
#pragma unroll 1
  for (int e = thread; e < size * size; e += kJacobiThreads) rows[e] = ldexp(rows[e], -exponent);
  __syncthreads();

  // Of an even number of players one stays and the others go round.
  const int players = size + size % 2, others = players - 1;
#pragma unroll 1
  for (int sweep = 0; sweep < kMostJacobiSweeps; ++sweep) {
    double rotated = 0.0;
#pragma unroll 1
    for (int round = 0; round < others; ++round) {
#pragma unroll 1
      for (int pair = warp; pair < players / 2; pair += kJacobiWarps) {
        const int one = pair == 0 ? others : (round + pair) % others, two = (round - pair + others) % others;
        const int first = one < two ? one : two, second = one < two ? two : one;
        if (second < size && orthogonalize_rows(rows + first * size, rows + second * size, size)) rotated = 1.0;
      }
      __syncthreads();
    }
    if (lane == 0) of_warps[warp] = rotated;
    __syncthreads();
    double any = 0.0;
    for (int other = 0; other < kJacobiWarps; ++other) any += of_warps[other];
    __syncthreads();
    if (any == 0.0) break;
  }

#pragma unroll 1
  for (int i = warp; i < size; i += kJacobiWarps) {
    double sum = 0.0;
    for (int j = lane; j < size; j += 32) sum += rows[i * size + j] * rows[i * size + j];
    sum = sum_of_warp(sum);
    if (lane == 0) lengths[i] = sqrt(sum);
  }
  __syncthreads();
  // Row i is the place-th longest, of equal ones in order: a warp writes its columns of W and Y.
#pragma unroll 1
  for (int i = warp; i < size; i += kJacobiWarps) {
    const double length = lengths[i];
    int place = 0;
    for (int other = lane; other < size; other += 32)
      place += int(lengths[other] > length || (lengths[other] == length && other < i));
    place = int(sum_of_warp(double(place)));
    if (place >= parameters.rank) continue;
    const bool is_null = !(length > 0x1p-500);
    if (lane == 0) parameters.values[n * parameters.rank + place] = is_null ? 0.0f : float(ldexp(length, exponent));
    const double* const row = rows + i * size;
    for (int k = lane; k < size; k += 32) parameters.w.store(n, k, place, is_null ? 0.0f : float(row[k] / length));
#pragma unroll 1
    for (int k = 0; k < size; ++k) {
      double sum = 0.0;
      for (int j = lane; j < size; j += 32) sum += double(parameters.r.load(n, k, j)) * row[j];
      sum = sum_of_warp(sum);
      if (lane == 0) parameters.y.store(n, k, place, is_null ? 0.0f : float(ldexp(sum, -exponent) / length / length));
    }
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
