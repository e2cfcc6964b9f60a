// y_n = x_n R_n and dR_n = x_nt g_n for bf16 and f16 on mma.sync and cp.async (sm_80 and later).
//
// Floor: x and y once (dR: x and g once), 2 block operations an element: memory's up to blocks of several hundred.
// Idea: float32 matrices keep their accuracy as two 16-bit ones, R = high + low, whose products with x are exact and meet
// in float accumulators. Both halves are one operand of twice the columns, so that fragments of x are loaded once;
// matrices of x's own dtype are their high half. A block of threads computes rows of a column tile of one n;
// neighbouring blocks have neighbouring n, whose parts of a row are neighbours in memory.
//
// Cost above the floor: a tile has kSplitColumns columns and takes kTileK of the sum, so blocks under 32 multiply zeros
// (of a block of 8 seven eighths of the products) and start copies of nothing. A block of b > 32 columns reads its part
// of x once a tile, b / 32 times, all but the first as a rule from L2: the tiles of one n are `count` blocks apart.
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

/// R as the kernel reads it: for every matrix and column tile, kSplitColumns lines of high and, of two halves, as many of
/// low, each along the sum and `stride` long, zeros where there is no R. f16 has a short range: there float32 R is first
/// divided by a power of two near its largest finite element, which `scales` keeps, and low halves count in units of
/// kLowUnit, so that elements far below the largest have one, too.
struct SplitMatricesParameters {
  ElementView blocks;  // [matrices block, block]
  int block = 0, tiles = 0, stride = 0, halves = 2;
  bool transpose = false, scaled = false;
  uint16_t* lines = nullptr;
  float* scales = nullptr;
};

template <class T>
constexpr float kLowUnit = 1.0f;
template <>
inline constexpr float kLowUnit<Float16> = 0x1p-12f;

__device__ __forceinline__ bool is_finite(float value) { return fabsf(value) <= 3.402823466e38f; }

/// The power of two at or below a finite number, kept where it and its reciprocal are normal floats.
__device__ __forceinline__ float power_of_two_below(float largest) {
  const float clamped = fminf(fmaxf(largest, 0x1p-126f), 0x1p126f);
  uint32_t bits;
  memcpy(&bits, &clamped, sizeof(bits));
  bits &= 0x7f800000u;  // the exponent alone
  float power;
  memcpy(&power, &bits, sizeof(power));
  return power;
}

/// The nearest T, but zero of zero alone, and Inf of Inf alone, so that products with Inf and with zero are those of
/// `value`; what that adds to the rounding the low half takes away.
template <class T>
__device__ __forceinline__ T high_half_of(float value) {
  T high = from_float<T>(value);
  const uint16_t magnitude = high.bits & 0x7fffu;
  if (magnitude == 0 && value != 0.0f) high.bits |= 1u;  // the least subnormal
  if (is_finite(value) && !is_finite(to_float(high))) --high.bits;  // Inf's predecessor is the largest finite number
  return high;
}

template <class T>
__global__ void __launch_bounds__(kSplitThreads) split_matrices_kernel(const SplitMatricesParameters parameters) {
  const int block = parameters.block, matrix = int(blockIdx.x), thread = int(threadIdx.x);
  float scale = 1.0f;
  if (parameters.scaled) {
    float* const largest = dynamic_shared<float>();
    float own = 0.0f;
    for (int e = thread; e < block * block; e += kSplitThreads) {
      const float value = fabsf(parameters.blocks.load(int64_t(matrix) * block + e / block, e % block));
      if (is_finite(value)) own = fmaxf(own, value);
    }
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
    const T high = high_half_of<T>(value);
    uint16_t* const lines = parameters.lines + (int64_t(matrix) * parameters.tiles + tile) * parameters.halves *
                                                   kSplitColumns * parameters.stride;
    lines[(j % kSplitColumns) * parameters.stride + k] = high.bits;
    if (parameters.halves == 1) continue;
    const float rest = is_finite(value) ? value - to_float(high) : 0.0f;  // else high says it all: Inf - Inf is NaN
    lines[(kSplitColumns + j % kSplitColumns) * parameters.stride + k] = from_float<T>(rest / kLowUnit<T>).bits;
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

template <class T, bool kWide, int kHalves>
using BlockApplyProduct =
    TileProduct<T, 128, kHalves * kSplitColumns, 32, 4, 1, 3, Major::kAlongSum, Major::kAlongSum, kWide>;

/// Of x with Inf, or of sums beyond float, the high sum alone is what float arithmetic gives: the low one may be NaN
/// (Inf times a zero) or an Inf of the other sign.
template <class T>
__device__ __forceinline__ float joined_halves(float high, float low) {
  return is_finite(high) ? fmaf(low, kLowUnit<T>, high) : high;
}

template <class Product>
__global__ void __launch_bounds__(Product::kThreads) block_apply_mma_kernel(const BlockApplyMmaParameters parameters) {
  using T = typename Product::T;
  constexpr int kTileK = Product::kTileK, kColumns = kSplitColumns, kHalf = kColumns / 8;  // fragments of a half
  const int64_t n = int64_t(blockIdx.x) % parameters.count, rest = int64_t(blockIdx.x) / parameters.count;
  const int tile = int(rest % parameters.tiles), block = parameters.block;
  const int64_t first_m = rest / parameters.tiles * Product::kTileM, matrix = parameters.shared ? 0 : n;
  Lines x = parameters.x, r;
  x.data = static_cast<const uint16_t*>(x.data) + n * block, x.length = block;
  r.data = parameters.matrices + (matrix * parameters.tiles + tile) * Product::kTileN * parameters.stride;
  r.stride = r.length = parameters.stride, r.lines = Product::kTileN;
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
        const auto sum = [&](int q) {
          const float high = product.accumulators[i][j][2 * half + q];
          if constexpr (Product::kMmaN == kHalf)
            return high * scale;
          else
            return joined_halves<T>(high, product.accumulators[i][j + kHalf][2 * half + q]) * scale;
        };
        store_vector(staging + (lane / 4 + 8 * half) * kStride + j * 8 + 2 * (lane % 4), float2{sum(0), sum(1)});
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
