// Tiles of 16-bit matrices in shared memory: an XOR swizzle that makes ldmatrix free of bank conflicts, and the copies
// that fill a tile from global memory with zeros past the edges.
#pragma once

#include "device/dropout.cuh"
#include "device/numeric.cuh"
#include "device/ptx/memory.cuh"
#include "device/ptx/cp_async.cuh"
#include "device/vector.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// A matrix of 16-bit elements in global memory as `lines` runs of `length` contiguous elements, `stride` apart. A
/// row-major matrix has its rows for lines, a column-major one its columns.
struct Lines {
  const void* data = nullptr;
  int64_t stride = 0;
  int lines = 0, length = 0;
  int copy_bytes = 16;  // the widest aligned access: 16, 4 or 2 bytes
};

/// kLines lines of kLength elements in shared memory, in chunks of 16 bytes. Eight chunks fill the 32 banks, so the
/// chunk index is XORed with the line counted in units of 128 bytes: eight consecutive lines at one chunk column, which
/// is what ldmatrix reads, then lie in eight different bank groups.
template <int kLines, int kLength>
struct SharedTile {
  static constexpr int kChunksPerLine = kLength / 8;
  static constexpr int kChunks = kLines * kChunksPerLine;
  static constexpr int kBytes = kChunks * 16;
  static constexpr int kLinesPerRow = kChunksPerLine >= 8 ? 1 : 8 / kChunksPerLine;  // lines in 128 bytes
  static constexpr int kSwizzleMask = (kChunksPerLine >= 8 ? 8 : kChunksPerLine) - 1;
  static_assert(kLength % 16 == 0 && (kChunksPerLine & (kChunksPerLine - 1)) == 0, "lines are 2^n chunks of 8");

  __device__ static __forceinline__ uint32_t offset(int line, int chunk) {
    return uint32_t(line * kChunksPerLine + (chunk ^ ((line / kLinesPerRow) & kSwizzleMask))) * 16;
  }
};

/// Starts the copy of the first `count` of a chunk's eight elements to a shared address, zeros behind them. kWide: one
/// 16-byte access, aligned. Otherwise accesses of `copy_bytes`; of 2 bytes they have landed when this returns.
template <bool kWide>
__device__ __forceinline__ void copy_chunk(uint32_t target, const uint16_t* source, int count, int copy_bytes) {
  if constexpr (kWide) {
    ptx::cp_async<16>(target, source, count * 2);
  } else if (copy_bytes >= 4) {
#pragma unroll
    for (int j = 0; j < 8; j += 2) ptx::cp_async<4>(target + 2 * j, source + j, count <= j ? 0 : count == j + 1 ? 2 : 4);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) ptx::store_shared_2(target + 2 * j, ptx::load_global_2(source + j, j < count));
  }
}

/// How many of eight elements exist when `elements` are left.
__device__ __forceinline__ int clamp_to_chunk(int elements) { return elements < 0 ? 0 : elements > 8 ? 8 : elements; }

/// Copies tile after tile of one operand of a product into shared memory, along the sum's index k, by kThreads threads;
/// the caller commits and waits. A thread has the same chunk column in every line it copies, so its addresses and
/// bounds are worked out once and then advance. kWide: 16-byte accesses are aligned. Otherwise 4-byte copies, or 2-byte
/// loads, which have landed when copy() returns. kAlongSum: lines run along k, else k counts lines.
template <class Tile, int kThreads, bool kWide, bool kAlongSum>
class TileReader {
 public:
  /// Starts at (first, first_k), `first` being the tile's corner across the sum.
  __device__ __forceinline__ TileReader(const Lines& source, int first, int first_k, int thread)
      : stride_bytes_(source.stride * 2), copy_bytes_(source.copy_bytes) {
    const int line = thread / Tile::kChunksPerLine, chunk = thread % Tile::kChunksPerLine;
    const int first_line = (kAlongSum ? first : first_k) + line;
    const int first_element = (kAlongSum ? first_k : first) + chunk * 8;
    target_ = Tile::offset(line, chunk);
    address_ = reinterpret_cast<uintptr_t>(source.data) + uintptr_t(first_line * stride_bytes_ + first_element * int64_t(2));
    if constexpr (kAlongSum) {
      left_ = source.length - first_element;
      fixed_ = 0;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) fixed_ |= int(first_line + i * kLineStep < source.lines) << i;
    } else {
      left_ = source.lines - first_line;
      fixed_ = clamp_to_chunk(source.length - first_element);
    }
  }

  /// Starts the copy of the next kTileK of the sum to shared address `tile`.
  template <int kTileK>
  __device__ __forceinline__ void copy(uint32_t tile) {
    const int in_line = kAlongSum ? clamp_to_chunk(left_) : fixed_;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool line_exists = kAlongSum ? (fixed_ >> i & 1) != 0 : i * kLineStep < left_;
      // cp.async of no bytes reads nothing, so the address of a chunk that does not exist need not be valid.
      copy_chunk<kWide>(tile + target_ + i * kLineStep * Tile::kChunksPerLine * 16,
                        reinterpret_cast<const uint16_t*>(address_ + uintptr_t(i * kLineStep * stride_bytes_)),
                        line_exists ? in_line : 0, copy_bytes_);
    }
    left_ -= kTileK;
    address_ += uintptr_t(kAlongSum ? int64_t(kTileK) * 2 : kTileK * stride_bytes_);
  }

 private:
  static constexpr int kCopies = Tile::kChunks / kThreads;
  static constexpr int kLineStep = kThreads / Tile::kChunksPerLine;
  static_assert(Tile::kChunks % kThreads == 0 && kThreads % Tile::kChunksPerLine == 0 &&
                    kLineStep / Tile::kLinesPerRow % (Tile::kSwizzleMask + 1) == 0,
                "a thread's chunks differ by whole periods of the swizzle");

  uintptr_t address_;  // an integer, because it may lie outside the operand where nothing is read
  int64_t stride_bytes_;
  uint32_t target_;
  int left_;   // along the sum: elements of this thread's chunk and behind it; across: lines
  int fixed_;  // along the sum: bit i tells whether its line i exists; across: elements of its chunk
  int copy_bytes_;
};

/// Zeroes the dropped elements among those this thread copied itself, so it may run before the block's barrier: each
/// element is judged once, whatever the number of warps that will read it. The index of (line, element) is
/// line * row_length + element.
template <class Tile, int kThreads>
__device__ __forceinline__ void drop_in_tile(uint32_t tile, int first_line, int first_element, int64_t row_length,
                                             uint64_t seed, uint32_t threshold, int thread) {
#pragma unroll 1
  for (int i = thread; i < Tile::kChunks; i += kThreads) {
    const int line = i / Tile::kChunksPerLine, chunk = i % Tile::kChunksPerLine;
    const uint64_t index = uint64_t(first_line + line) * uint64_t(row_length) + uint64_t(first_element + chunk * 8);
    const uint32_t keep = dropout_keep_bits<8>(seed, index, threshold);
    const uint32_t address = tile + Tile::offset(line, chunk);
    uint4 words = ptx::load_shared_16(address);
    words.x &= (keep & 1 ? 0x0000ffffu : 0u) | (keep & 2 ? 0xffff0000u : 0u);
    words.y &= (keep & 4 ? 0x0000ffffu : 0u) | (keep & 8 ? 0xffff0000u : 0u);
    words.z &= (keep & 16 ? 0x0000ffffu : 0u) | (keep & 32 ? 0xffff0000u : 0u);
    words.w &= (keep & 64 ? 0x0000ffffu : 0u) | (keep & 128 ? 0xffff0000u : 0u);
    ptx::store_shared_16(address, words);
  }
}

}  // namespace LRK_TARGET
}  // namespace lrk
