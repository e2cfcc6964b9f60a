// q = a R^-1 by substitution, in float64: a solve's error in q R is q's rounding alone, where that of a product with the
// inverse grows with |R^-1| |R|.
//
// Cost: rows * cols^2 / 2 multiply-adds, as many as the Gram matrix. Rows are independent: a warp takes four, eight columns
// at a time. All lanes solve for the eight, alike, and then take turns at the columns behind, so that R is read once for
// four rows (neighbouring warps find it in L1) and a row in shared memory is updated once for eight multiply-adds.
#pragma once

#include "cuda/sketch/tall_product_launch.cuh"
#include "device/sketch_rules.h"
#include "device/smem.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

constexpr int kSolveRows = 4, kSolvePanel = 8, kMostSolveWarps = 8;  // rows of a warp
static_assert(kSolveRows * kSolvePanel == 32, "a lane stores one solved number");

struct SubstitutionParameters {
  ConstStack a;  // may be q
  MutableStack q;
  int64_t rows = 0, row_blocks = 0;
  int size = 0;
  const double* triangles = nullptr;  // [count, size, size]
  const int* replaced = nullptr;      // [count, size]: whether the column becomes random signs of length 1
  float sign = 1.0f;                  // their magnitude
  Progress progress;
};

constexpr size_t substitution_shared_bytes(int64_t size, int warps) {
  return size_t(warps) * kSolveRows * size_t(size) * sizeof(double);
}

/// Blocks: matrices by blocks of rows, the rows first.
__global__ void __launch_bounds__(kMostSolveWarps * 32) substitution_kernel(const SubstitutionParameters parameters) {
  const int size = parameters.size, lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t n = int64_t(blockIdx.x) / parameters.row_blocks;
  if (parameters.progress.is_over(n)) return;
  const int64_t first_row =
      (int64_t(blockIdx.x) % parameters.row_blocks * (int(blockDim.x) / 32) + warp) * kSolveRows;
  const double* const triangle = parameters.triangles + n * size * size;
  double* const x = dynamic_shared<double>() + warp * kSolveRows * size;  // [rows, size]
#pragma unroll 1
  for (int j = lane; j < size; j += 32)
#pragma unroll
    for (int q = 0; q < kSolveRows; ++q)
      x[q * size + j] = first_row + q < parameters.rows ? double(parameters.a.load(n, first_row + q, j)) : 0.0;
  __syncwarp();
#pragma unroll 1
  for (int first = 0; first < size; first += kSolvePanel) {
    const int count = size - first < kSolvePanel ? size - first : kSolvePanel;
    double solved[kSolveRows][kSolvePanel];
#pragma unroll
    for (int k = 0; k < kSolvePanel; ++k) {
#pragma unroll
      for (int q = 0; q < kSolveRows; ++q) solved[q][k] = k < count ? x[q * size + first + k] : 0.0;
    }
#pragma unroll
    for (int k = 0; k < kSolvePanel; ++k) {
      const double* const row = triangle + int64_t(first + k) * size + first;
      const double reciprocal = k < count ? 1.0 / row[k] : 0.0;
#pragma unroll
      for (int q = 0; q < kSolveRows; ++q) solved[q][k] *= reciprocal;
#pragma unroll
      for (int j = k + 1; j < kSolvePanel; ++j) {
        const double entry = j < count ? row[j] : 0.0;
#pragma unroll
        for (int q = 0; q < kSolveRows; ++q) solved[q][j] -= solved[q][k] * entry;
      }
    }
    __syncwarp();
#pragma unroll
    for (int q = 0; q < kSolveRows; ++q)
#pragma unroll
      for (int k = 0; k < kSolvePanel; ++k)
        if (lane == q * kSolvePanel + k && k < count) x[q * size + first + k] = solved[q][k];
#pragma unroll 1
    for (int j = first + kSolvePanel + lane; j < size; j += 32) {
      double sum[kSolveRows] = {};
#pragma unroll
      for (int k = 0; k < kSolvePanel; ++k) {  // behind a panel of fewer columns there is nothing
        const double entry = triangle[int64_t(first + k) * size + j];
#pragma unroll
        for (int q = 0; q < kSolveRows; ++q) sum[q] += solved[q][k] * entry;
      }
#pragma unroll
      for (int q = 0; q < kSolveRows; ++q) x[q * size + j] -= sum[q];
    }
    __syncwarp();
  }
#pragma unroll 1
  for (int j = lane; j < size; j += 32) {
    const bool replaced = parameters.replaced[n * size + j] != 0;
#pragma unroll
    for (int q = 0; q < kSolveRows; ++q) {
      const int64_t row = first_row + q;
      if (row >= parameters.rows) continue;
      float value = float(x[q * size + j]);
      if (replaced) {
        const uint32_t signs = replacement_signs(uint64_t(parameters.progress.pass), row / 32, j, parameters.rows);
        value = (signs >> (row % 32) & 1) != 0 ? -parameters.sign : parameters.sign;
      }
      parameters.q.store(n, row, j, value);
    }
  }
}

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
