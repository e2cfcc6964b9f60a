// y_n = x_n R_n and dR_n = x_nt g_n for bf16 and f16 on mma.sync and cp.async (sm_80 and later).
//
// Floor: x and y once (dR: x and g once), 2 block operations an element: memory's up to blocks of several hundred.
// Idea: float32 matrices keep their accuracy as two 16-bit ones, R = high + low, whose products with x are exact and meet
// in float accumulators. Both halves are one operand of twice the columns, so that fragments of x are loaded once. A
// block of threads computes rows of a column tile of one n; neighbouring blocks have neighbouring n, whose parts of a
// row are neighbours in memory.
#pragma once

#include "device/element_view.cuh"
#include "device/pipelined_sum.cuh"
#include "device/smem.cuh"
#include "device/tile_product.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

constexpr int kSplitColumns = 32;  // of R in a tile; the tile has as many lines of either half
constexpr int kSplitThreads = 256;

/// R as the kernel reads it: for every matrix and column tile, kSplitColumns lines of high and as many of low, each along
/// the sum and `stride` long, zeros where there is no R. f16 has a short range: there R is first divided by a power of two
/// near its largest element, which `scales` keeps.
struct SplitMatricesParameters {
  ElementView blocks;  // [matrices block, block]
  int block = 0, tiles = 0, stride = 0;
  bool transpose = false, scaled = false;
  uint16_t* lines = nullptr;
  float* scales = nullptr;
};

/// The power of two at or below `largest`; 1 for what has none with a reciprocal in float: zero, NaN, Inf.
__device__ __forceinline__ float power_of_two_below(float largest) {
  if (!(largest >= 1e-30f && largest <= 1e30f)) return 1.0f;
  uint32_t bits;
  memcpy(&bits, &largest, sizeof(bits));
  bits &= 0x7f800000u;  // the exponent alone
  float power;
  memcpy(&power, &bits, sizeof(power));
  return power;
}

template <class T>
__global__ void __launch_bounds__(kSplitThreads) split_matrices_kernel(const SplitMatricesParameters parameters) {
  const int block = parameters.block, matrix = int(blockIdx.x), thread = int(threadIdx.x);
  float scale = 1.0f;
  if (parameters.scaled) {
    float* const largest = dynamic_shared<float>();
    float own = 0.0f;
    for (int e = thread; e < block * block; e += kSplitThreads)
      own = fmaxf(own, fabsf(parameters.blocks.load(int64_t(matrix) * block + e / block, e % block)));
    largest[thread] = own;
    __syncthreads();
    for (int half = kSplitThreads / 2; half > 0; half /= 2) {
      if (thread < half) largest[thread] = fmaxf(largest[thread], largest[thread + half]);
      __syncthreads();
    }
    scale = power_of_two_below(largest[0]);
  }
  if (thread == 0) parameters.scales[matrix] = scale;
  const float reciprocal = 1.0f / scale;
  const int count = parameters.tiles * kSplitColumns * parameters.stride;
  for (int e = thread; e < count; e += kSplitThreads) {
    const int k = e % parameters.stride, j = e / parameters.stride, tile = j / kSplitColumns;
    float value = 0.0f;
    if (j < block && k < block) {
      const int64_t first = int64_t(matrix) * block;
      value = parameters.transpose ? parameters.blocks.load(first + j, k) : parameters.blocks.load(first + k, j);
    }
    value *= reciprocal;
    const T high = from_float<T>(value);
    const float rest = value - to_float(high);
    const bool finite = fabsf(to_float(high)) <= 3.402823466e38f;  // else the high half says it all: Inf - Inf is NaN
    const T low = from_float<T>(finite ? rest : 0.0f);
    uint16_t* const lines =
        parameters.lines + (int64_t(matrix) * parameters.tiles + tile) * 2 * kSplitColumns * parameters.stride;
    lines[(j % kSplitColumns) * parameters.stride + k] = high.bits;
    lines[(kSplitColumns + j % kSplitColumns) * parameters.stride + k] = low.bits;
  }
}

struct BlockApplyMmaParameters {
  Lines x;          // of the whole rows
  int block = 0;
  int64_t count = 0;  // of blocks in a row
  bool shared = false;
  const uint16_t* matrices = nullptr;  // of split_matrices_kernel
  const float* scales = nullptr;
  int tiles = 0, stride = 0;
  void* y = nullptr;
  int64_t y_stride = 0;
  bool wide_y = false;  // chunks of eight are aligned, and a block is whole ones
};

template <class T, bool kWide>
using BlockApplyProduct = TileProduct<T, 128, 2 * kSplitColumns, 32, 4, 1, 3, Major::kAlongSum, Major::kAlongSum, kWide>;

template <class Product>
__global__ void __launch_bounds__(Product::kThreads) block_apply_mma_kernel(const BlockApplyMmaParameters parameters) {
  using T = typename Product::T;
  constexpr int kTileK = Product::kTileK, kHalf = Product::kMmaN / 2, kColumns = kSplitColumns;
  const int64_t n = int64_t(blockIdx.x) % parameters.count, rest = int64_t(blockIdx.x) / parameters.count;
  const int tile = int(rest % parameters.tiles), block = parameters.block;
  const int64_t first_m = rest / parameters.tiles * Product::kTileM, matrix = parameters.shared ? 0 : n;
  Lines x = parameters.x, r;
  x.data = static_cast<const uint16_t*>(x.data) + n * block, x.length = block;
  r.data = parameters.matrices + (matrix * parameters.tiles + tile) * 2 * kColumns * parameters.stride;
  r.stride = r.length = parameters.stride, r.lines = 2 * kColumns;
  Product product(ptx::shared_address(dynamic_shared<char>()), int(threadIdx.x));
  typename Product::Reader reader(x, r, int(first_m), 0, 0, product.thread);
  pipelined_sum(
      product, (block + kTileK - 1) / kTileK, [&](int, int stage) { reader.copy(product, stage); },
      [&](int step) {
        const int left = (block - step * kTileK + 15) / 16;
        return left < kTileK / 16 ? left : kTileK / 16;
      });

  // By way of shared memory, 16 rows of a warp at a time, so that global accesses are whole sectors.
  constexpr int kStride = kColumns + 8, kLanesPerRow = kColumns / 8, kRowsAtOnce = 32 / kLanesPerRow;
  static_assert(Product::kThreads / 32 * 16 * kStride * 4 <= Product::kSharedBytes, "staging fits the pipeline");
  const float scale = parameters.scales[matrix];
  const int lane = product.lane, first_j = tile * kColumns;
  float* const staging = dynamic_shared<float>() + (product.thread / 32) * 16 * kStride;
  T* const y = static_cast<T*>(parameters.y) + n * block;
#pragma unroll
  for (int i = 0; i < Product::kMmaM; ++i) {
    const int64_t row = first_m + product.warp_m * Product::kWarpM + i * 16;
#pragma unroll
    for (int j = 0; j < kHalf; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float(&high)[4] = product.accumulators[i][j];
        const float(&low)[4] = product.accumulators[i][j + kHalf];
        store_vector(staging + (lane / 4 + 8 * half) * kStride + j * 8 + 2 * (lane % 4),
                     float2{(high[2 * half] + low[2 * half]) * scale, (high[2 * half + 1] + low[2 * half + 1]) * scale});
      }
    __syncwarp();
    if (parameters.wide_y) {
#pragma unroll
      for (int pass = 0; pass < 16 / kRowsAtOnce; ++pass) {
        const int r_in = pass * kRowsAtOnce + lane / kLanesPerRow, chunk = lane % kLanesPerRow * 8;
        if (row + r_in >= parameters.x.lines || first_j + chunk >= block) continue;
        const float* const source = staging + r_in * kStride + chunk;
        uint32_t packed[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) packed[w] = pack_pair<T>(source[2 * w], source[2 * w + 1]);
        store_vector(y + (row + r_in) * parameters.y_stride + first_j + chunk,
                     uint4{packed[0], packed[1], packed[2], packed[3]});
      }
    } else {
#pragma unroll 1
      for (int e = lane; e < 16 * kColumns; e += 32) {
        const int r_in = e / kColumns, j = e % kColumns;
        if (row + r_in < parameters.x.lines && first_j + j < block)
          y[(row + r_in) * parameters.y_stride + first_j + j] = from_float<T>(staging[r_in * kStride + j]);
      }
    }
    __syncwarp();
  }
}

/// partials[split, n] = left_nt right_n over the split's rows.
struct BlockGradMmaParameters {
  Lines left, right;  // of the whole rows: x and g, transposed g and x
  int block = 0, tiles = 0, splits = 1, rows_a_split = 0;
  int64_t count = 0;
  float* partials = nullptr;  // [splits, count, block, block]
};

template <class T, bool kWide>
using BlockGradProduct = TileProduct<T, 32, 32, 64, 2, 2, 3, Major::kAcrossSum, Major::kAcrossSum, kWide>;

template <class Product>
__global__ void __launch_bounds__(Product::kThreads) block_grad_mma_kernel(const BlockGradMmaParameters parameters) {
  constexpr int kTileK = Product::kTileK;
  const int64_t n = int64_t(blockIdx.x) % parameters.count, rest = int64_t(blockIdx.x) / parameters.count;
  const int tiles = parameters.tiles, tile = int(rest % (tiles * tiles)), split = int(rest / (tiles * tiles));
  const int block = parameters.block;
  const int first_i = tile / tiles * Product::kTileM, first_j = tile % tiles * Product::kTileN;
  const int first_row = split * parameters.rows_a_split, rows = parameters.left.lines;
  const int end_row = rows - first_row < parameters.rows_a_split ? rows : first_row + parameters.rows_a_split;
  Lines left = parameters.left, right = parameters.right;
  left.data = static_cast<const uint16_t*>(left.data) + n * block;
  right.data = static_cast<const uint16_t*>(right.data) + n * block;
  left.length = right.length = block, left.lines = right.lines = end_row;
  Product product(ptx::shared_address(dynamic_shared<char>()), int(threadIdx.x));
  typename Product::Reader reader(left, right, first_i, first_j, first_row, product.thread);
  pipelined_sum(
      product, (end_row - first_row + kTileK - 1) / kTileK, [&](int, int stage) { reader.copy(product, stage); },
      [](int) { return kTileK / 16; });
  float* const out = parameters.partials + (split * parameters.count + n) * block * block;
#pragma unroll
  for (int i = 0; i < Product::kMmaM; ++i)
#pragma unroll
    for (int j = 0; j < Product::kMmaN; ++j)
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int row = first_i + product.row_of(i, q), column = first_j + product.col_of(j, q);
        if (row < block && column < block) out[int64_t(row) * block + column] = product.accumulators[i][j][q];
      }
}

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
