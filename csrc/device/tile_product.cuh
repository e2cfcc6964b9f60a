// One block's part of a matrix product on tensor cores (sm_80): accumulators[m, n] += sum_k A[m, k] B[n, k] over tiles
// that wait in shared memory. Either operand may be stored along k or across it; ldmatrix, plain or transposing, makes
// the same register fragments of both.
#pragma once

#include "device/ptx/ldmatrix.cuh"
#include "device/ptx/mma.cuh"
#include "device/tile.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// Which direction of an operand is contiguous: along the sum's index k, or across it.
enum class Major { kAlongSum, kAcrossSum };

template <class T_, int kTileM_, int kTileN_, int kTileK_, int kWarpsM_, int kWarpsN_, int kStages_, Major kMajorA,
          Major kMajorB, bool kWide_ = true>
struct TileProduct {
  using T = T_;
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kTileK = kTileK_, kStages = kStages_;
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kWarpM = kTileM / kWarpsM, kWarpN = kTileN / kWarpsN;  // a warp's share
  static constexpr int kMmaM = kWarpM / 16, kMmaN = kWarpN / 8;
  static constexpr bool kWide = kWide_, kAlongA = kMajorA == Major::kAlongSum, kAlongB = kMajorB == Major::kAlongSum;
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0 && kTileK % 16 == 0, "fragments are 16 x 16 x 16");

  using TileA = SharedTile<kAlongA ? kTileM : kTileK, kAlongA ? kTileK : kTileM>;
  using TileB = SharedTile<kAlongB ? kTileN : kTileK, kAlongB ? kTileK : kTileN>;
  static constexpr int kStageBytes = TileA::kBytes + TileB::kBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;

  uint32_t shared;  // address of stage 0
  int thread, lane, warp_m, warp_n;
  float accumulators[kMmaM][kMmaN][4];

  __device__ __forceinline__ TileProduct(uint32_t shared_, int thread_)
      : shared(shared_), thread(thread_), lane(thread_ % 32), warp_m(thread_ / 32 / kWarpsN),
        warp_n(thread_ / 32 % kWarpsN) {
#pragma unroll
    for (int i = 0; i < kMmaM; ++i)
#pragma unroll
      for (int j = 0; j < kMmaN; ++j)
#pragma unroll
        for (int q = 0; q < 4; ++q) accumulators[i][j][q] = 0.0f;
  }

  __device__ __forceinline__ uint32_t stage_a(int stage) const { return shared + uint32_t(stage * kStageBytes); }
  __device__ __forceinline__ uint32_t stage_b(int stage) const { return stage_a(stage) + uint32_t(TileA::kBytes); }

  /// Feeds stages with consecutive tiles of both operands from k = first_k; (first_m, first_n) is the block's corner.
  struct Reader {
    TileReader<TileA, kThreads, kWide, kAlongA> a;
    TileReader<TileB, kThreads, kWide, kAlongB> b;

    __device__ __forceinline__ Reader(const Lines& lines_a, const Lines& lines_b, int first_m, int first_n, int first_k,
                                      int thread)
        : a(lines_a, first_m, first_k, thread), b(lines_b, first_n, first_k, thread) {}

    __device__ __forceinline__ void copy(const TileProduct& product, int stage) {
      a.template copy<kTileK>(product.stage_a(stage));
      b.template copy<kTileK>(product.stage_b(stage));
    }
  };

  __device__ __forceinline__ static int next(int stage) { return stage + 1 == kStages ? 0 : stage + 1; }

  /// Adds the product of a stage's tiles, `k_steps` slices of 16 of it.
  __device__ __forceinline__ void multiply(int stage, int k_steps = kTileK / 16) {
    const uint32_t tile_a = stage_a(stage), tile_b = stage_b(stage);
#pragma unroll
    for (int step = 0; step < kTileK / 16; ++step) {
      if (step >= k_steps) break;
      uint32_t a[kMmaM][4], b[kMmaN / 2][4];
#pragma unroll
      for (int i = 0; i < kMmaM; ++i) load_a(a[i], tile_a, warp_m * kWarpM + i * 16, step);
#pragma unroll
      for (int j = 0; j < kMmaN / 2; ++j) load_b(b[j], tile_b, warp_n * kWarpN + j * 16, step);
#pragma unroll
      for (int i = 0; i < kMmaM; ++i)
#pragma unroll
        for (int j = 0; j < kMmaN; ++j)
          ptx::mma_m16n8k16<T>(accumulators[i][j], a[i], b[j / 2][(j % 2) * 2], b[j / 2][(j % 2) * 2 + 1]);
    }
  }

  /// Where element q of accumulators[i][j] lies in the tile.
  __device__ __forceinline__ int row_of(int i, int q) const {
    return warp_m * kWarpM + i * 16 + lane / 4 + 8 * (q / 2);
  }
  __device__ __forceinline__ int col_of(int j, int q) const {
    return warp_n * kWarpN + j * 8 + 2 * (lane % 4) + q % 2;
  }

 private:
  /// Rows m .. m + 15 of slice `step`: matrices (m, k), (m + 8, k), (m, k + 8), (m + 8, k + 8).
  __device__ __forceinline__ void load_a(uint32_t (&fragment)[4], uint32_t tile, int m, int step) const {
    if constexpr (kAlongA)
      ptx::ldmatrix_x4(fragment, tile + TileA::offset(m + lane % 16, step * 2 + lane / 16));
    else
      ptx::ldmatrix_x4<true>(fragment, tile + TileA::offset(step * 16 + lane % 8 + lane / 16 * 8,
                                                            m / 8 + lane / 8 % 2));
  }

  /// Columns n .. n + 15 of slice `step`: matrices (n, k), (n, k + 8), (n + 8, k), (n + 8, k + 8).
  __device__ __forceinline__ void load_b(uint32_t (&fragment)[4], uint32_t tile, int n, int step) const {
    if constexpr (kAlongB)
      ptx::ldmatrix_x4(fragment, tile + TileB::offset(n + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
    else
      ptx::ldmatrix_x4<true>(fragment, tile + TileB::offset(step * 16 + lane % 16, n / 8 + lane / 16));
  }
};

}  // namespace LRK_TARGET
}  // namespace lrk
