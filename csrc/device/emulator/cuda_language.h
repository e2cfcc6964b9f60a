// The CUDA C++ that kernels are written in, for a plain C++ compiler: keywords, built-in variables, barriers, shuffles.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "device/emulator/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

#define threadIdx (::lrk::emulator::Block::current()->thread_index())
#define blockIdx (::lrk::emulator::Block::current()->index())
#define blockDim (::lrk::emulator::Block::current()->dim())
#define gridDim (::lrk::emulator::Block::current()->grid())

namespace lrk {
inline namespace emulated {

using dim3 = emulator::Dim3;
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};

inline void __syncthreads() { emulator::Block::current()->sync_threads(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::Block::current()->warp_collective("__syncwarp", mask, nullptr, nullptr, [](emulator::Warp&) {});
}

/// Every lane of `mask` receives the value of lane source(lane); a source outside the mask is a fault.
template <class T, class Source>
T shuffle_from(const char* operation, unsigned mask, T value, Source source) {
  T result = value;
  emulator::Block::current()->warp_collective(operation, mask, &value, &result, [&](emulator::Warp& warp) {
    for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      const int from = source(lane);
      if ((mask >> from & 1) == 0) emulator::fault(std::string(operation) + ": the source lane is not in the mask");
      warp.output<T>(lane) = warp.input<T>(from);
    }
  });
  return result;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source_lane) {
  struct Input {
    T value;
    int source;
  } input{value, source_lane & 31};
  T result = value;
  emulator::Block::current()->warp_collective("__shfl_sync", mask, &input, &result, [&](emulator::Warp& warp) {
    for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      const int from = warp.input<Input>(lane).source;
      if ((mask >> from & 1) == 0) emulator::fault("__shfl_sync: the source lane is not in the mask");
      warp.output<T>(lane) = warp.input<Input>(from).value;
    }
  });
  return result;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return shuffle_from("__shfl_xor_sync", mask, value, [lane_mask](int lane) { return (lane ^ lane_mask) & 31; });
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  return shuffle_from("__shfl_down_sync", mask, value,
                      [delta](int lane) { return lane + int(delta) < emulator::kWarpSize ? lane + int(delta) : lane; });
}

}  // namespace emulated
}  // namespace lrk
