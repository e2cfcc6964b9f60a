// The last step of y = acc + base + bias: in float, rounded once, written once.
#pragma once

#include "device/element_view.cuh"
#include "device/vector.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

struct LinearOutput {
  MutableElementView y;  // [rows, out]
  ElementView base;      // y's dtype; may be y's memory, because an element is read and written by one thread
  ElementView bias;      // [1, out]
  int rows = 0, out = 0;
  bool wide = false;  // y and base take aligned 16-byte accesses

  __device__ __forceinline__ void write(int row, int col, float value) const {
    if (row >= rows || col >= out) return;
    if (base.data != nullptr) value += base.load(row, col);
    if (bias.data != nullptr) value += bias.load(0, col);
    y.store(row, col, value);
  }

  // The wide path of 16-bit y: chunks of eight columns, `col` a multiple of 8. Reading base is a step of its own, so
  // that several reads are in flight before the first write.

  __device__ __forceinline__ void load_bias(int col, float (&values)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = bias.data != nullptr && col < out ? bias.load(0, col + i) : 0.0f;
  }

  template <class T>
  __device__ __forceinline__ uint4 load_base(int row, int col) const {
    if (base.data == nullptr || row >= rows || col >= out) return uint4{0, 0, 0, 0};  // zeros of T
    return load_vector<uint4>(static_cast<const T*>(base.data) + row * base.row_stride + col);
  }

  template <class T>
  __device__ __forceinline__ void write_chunk(int row, int col, const float4& low, const float4& high,
                                              const uint4& base_words, const float (&bias_values)[8]) const {
    if (row >= rows || col >= out) return;
    const uint32_t word[4] = {base_words.x, base_words.y, base_words.z, base_words.w};
    const float sum[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      packed[i] = pack_pair<T>(sum[2 * i] + low_half<T>(word[i]) + bias_values[2 * i],
                               sum[2 * i + 1] + high_half<T>(word[i]) + bias_values[2 * i + 1]);
    store_vector(static_cast<T*>(y.data) + row * y.row_stride + col, uint4{packed[0], packed[1], packed[2], packed[3]});
  }
};

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
