// Operands whose rows are named by a list of numbers, for the products of tile_product.cuh and simt_product.cuh: the
// same tiles in shared memory as those of rows that follow one another, from addresses looked up row by row.
#pragma once

#include "device/simt_product.cuh"
#include "device/tile.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// TileReader for the lines order[0], order[1], ... order[lines - 1] of `source`. kAlongSum: the lines' numbers are
/// looked up once, when the reader is made; else every tile brings new lines, and the sum ends with them.
template <class Tile, int kThreads, bool kWide, bool kAlongSum>
class GatheredTileReader {
 public:
  __device__ __forceinline__ GatheredTileReader(const Lines& source, const int32_t* order, int lines, int first_element,
                                                int thread)
      : order_(order), data_(reinterpret_cast<uintptr_t>(source.data)), stride_bytes_(source.stride * 2),
        copy_bytes_(source.copy_bytes) {
    const int chunk = thread % Tile::kChunksPerLine;
    line_ = thread / Tile::kChunksPerLine;
    target_ = Tile::offset(line_, chunk);
    data_ += uintptr_t(int64_t(first_element + chunk * 8) * 2);
    left_ = source.length - (first_element + chunk * 8);
    lines_ = lines;
    if constexpr (kAlongSum) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) address_[i] = address_of(i);
    }
  }

  /// Starts the copy of the next kTileK of the sum to shared address `tile`.
  template <int kTileK>
  __device__ __forceinline__ void copy(uint32_t tile) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const uintptr_t address = kAlongSum ? address_[i] : address_of(i);
      // cp.async of no bytes reads nothing, so the address of a chunk that does not exist need not be valid.
      copy_chunk<kWide>(tile + target_ + i * kLineStep * Tile::kChunksPerLine * 16,
                        reinterpret_cast<const uint16_t*>(address), exists(i) ? clamp_to_chunk(left_) : 0, copy_bytes_);
      if constexpr (kAlongSum) address_[i] += kTileK * 2;
    }
    if constexpr (kAlongSum)
      left_ -= kTileK;
    else
      line_ += kTileK;
  }

 private:
  static constexpr int kCopies = Tile::kChunks / kThreads;
  static constexpr int kLineStep = kThreads / Tile::kChunksPerLine;
  static_assert(Tile::kChunks % kThreads == 0 && kThreads % Tile::kChunksPerLine == 0 &&
                    kLineStep / Tile::kLinesPerRow % (Tile::kSwizzleMask + 1) == 0,
                "a thread's chunks differ by whole periods of the swizzle");

  __device__ __forceinline__ bool exists(int i) const { return line_ + i * kLineStep < lines_; }
  __device__ __forceinline__ uintptr_t address_of(int i) const {
    return data_ + (exists(i) ? uintptr_t(order_[line_ + i * kLineStep] * stride_bytes_) : 0);
  }

  const int32_t* order_;
  uintptr_t data_;  // at this thread's element of line 0; an integer, because it may lie outside the operand
  int64_t stride_bytes_;
  uintptr_t address_[kAlongSum ? kCopies : 1];
  uint32_t target_;
  int line_, lines_, left_, copy_bytes_;
};

template <bool kGatherSum, int kTile, int kTileK, int kThreads, int kStride>
class GatheredFloatReader;

/// A float32 operand with rows order[0] ... order[rows - 1]: element (i, k) at data[order[i] * stride + k * sum_stride],
/// i < extent = rows, or, where the sum runs over the rows, at data[i * stride + order[k] * sum_stride].
template <bool kGatherSum>
struct GatheredFloatOperand {
  template <int kTile, int kTileK, int kThreads, int kStride>
  using Reader = GatheredFloatReader<kGatherSum, kTile, kTileK, kThreads, kStride>;

  FloatOperand floats;
  const int32_t* order = nullptr;
};

/// FloatReader with looked-up rows. Neighbour threads read neighbouring memory of a row.
template <bool kGatherSum, int kTile, int kTileK, int kThreads, int kStride>
class GatheredFloatReader {
 public:
  __device__ __forceinline__ GatheredFloatReader(const GatheredFloatOperand<kGatherSum>& operand, int first,
                                                 int first_k, int end_k, int thread)
      : floats_(operand.floats), order_(operand.order), next_k_(first_k), end_k_(end_k) {
    i_ = first + (kGatherSum ? thread % kTile : thread / kTileK);
    k_ = kGatherSum ? thread / kTile : thread % kTileK;
    target_ = uint32_t(k_ * kStride + i_ - first) * 4;
    if constexpr (!kGatherSum) {
#pragma unroll
      for (int n = 0; n < kCopies; ++n) {
        const int i = i_ + n * kStepI;
        row_[n] = i < floats_.extent ? order_[i] : -1;
      }
    }
  }

  /// Starts the copy of the next kTileK of the sum to shared address `tile`.
  __device__ __forceinline__ void copy(uint32_t tile) {
#pragma unroll
    for (int n = 0; n < kCopies; ++n) {
      const int k = next_k_ + k_ + n * kStepK;
      int64_t at = 0;
      bool exists;
      if constexpr (kGatherSum) {
        exists = i_ < floats_.extent && k < end_k_;
        if (exists) at = i_ * floats_.stride + order_[k] * floats_.sum_stride;
      } else {
        exists = row_[n] >= 0 && k < end_k_;
        if (exists) at = row_[n] * floats_.stride + k * floats_.sum_stride;
      }
      ptx::cp_async<4>(tile + target_ + uint32_t(n * (kStepK * kStride + kStepI)) * 4, floats_.data + at,
                       exists ? 4 : 0);
    }
    next_k_ += kTileK;
  }

 private:
  static constexpr int kCopies = kTile * kTileK / kThreads;
  static constexpr int kStepI = kGatherSum ? 0 : kThreads / kTileK, kStepK = kGatherSum ? kThreads / kTile : 0;
  static_assert(kTile * kTileK % kThreads == 0 && kThreads % kTileK == 0 && kThreads % kTile == 0, "an even deal");

  FloatOperand floats_;
  const int32_t* order_;
  int32_t row_[kGatherSum ? 1 : kCopies];
  uint32_t target_;
  int i_, k_, next_k_, end_k_;
};

}  // namespace LRK_TARGET
}  // namespace lrk
