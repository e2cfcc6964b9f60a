// The CUDA C++ that kernels are written in, for a plain C++ compiler: keywords, built-in variables, barriers, warp-wide
// operations and fences (CUDA C++ Programming Guide, "C++ Language Extensions"). Atomics are in device/ptx/, for
// integers and with their order spelled out.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "device/emulator/atomics.h"
#include "device/emulator/thread.h"

#define __global__
#define __device__
#define __host__
// Also makes the line that a report names the kernel's and not a wrapper's.
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __launch_bounds__(...)

#define threadIdx (::lrk::emulator::thread_index())
#define blockIdx (::lrk::emulator::block_index())
#define blockDim (::lrk::emulator::block_dim())
#define gridDim (::lrk::emulator::grid_dim())

namespace lrk {
inline namespace LRK_TARGET {

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

__forceinline__ void __syncthreads() { emulator::sync_threads(); }
__forceinline__ void __syncwarp(unsigned mask = emulator::kAllLanes) { emulator::sync_warp(mask); }
__forceinline__ void __threadfence() { emulator::fence(emulator::Scope::kGrid); }
__forceinline__ void __threadfence_block() { emulator::fence(emulator::Scope::kBlock); }

// --- Shuffles. `width` lanes, a power of two, are a group of their own.

template <class T>
struct ShuffleInput {
  T value;
  int source;  // a lane
};

/// Every lane of `mask` receives the value of its source lane; a source outside the mask is a fault.
template <class T>
__forceinline__ T shuffle_from(const char* operation, unsigned mask, T value, int source) {
  const ShuffleInput<T> input{value, source};
  T result = value;
  const auto move = [operation, mask](emulator::Warp& warp) LRK_UNINSTRUMENTED {
    for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      const int from = warp.input<ShuffleInput<T>>(lane).source;
      if ((mask >> from & 1) == 0) emulator::fault(operation, "the source lane is not in the mask");
      warp.output<T>(lane) = warp.input<ShuffleInput<T>>(from).value;
    }
  };
  emulator::warp_collective(operation, mask, &input, &result, move);
  return result;
}

template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source_lane, int width = 32) {
  return shuffle_from("__shfl_sync", mask, value, (emulator::lane() & ~(width - 1)) | (source_lane & (width - 1)));
}

template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = emulator::lane(), source = lane - int(delta & 31);  // the instruction reads five bits
  return shuffle_from("__shfl_up_sync", mask, value, source < (lane & ~(width - 1)) ? lane : source);
}

template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = emulator::lane(), source = lane + int(delta & 31);
  return shuffle_from("__shfl_down_sync", mask, value, source > (lane | (width - 1)) ? lane : source);
}

/// A source in an earlier group is read; one in a later group is not, and the own value stays.
template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int lane = emulator::lane(), source = (lane ^ lane_mask) & 31;
  return shuffle_from("__shfl_xor_sync", mask, value, source > (lane | (width - 1)) ? lane : source);
}

// --- Votes, matches and reductions.

/// Every lane of `mask` receives reduce(warp), which sees each lane's `value`.
template <class Result, class T, class Reduce>
__forceinline__ Result reduce_over_lanes(const char* operation, unsigned mask, T value, const Reduce& reduce) {
  Result result{};
  emulator::warp_collective(operation, mask, &value, &result, [mask, &reduce](emulator::Warp& warp) LRK_UNINSTRUMENTED {
    for (int lane = 0; lane < emulator::kWarpSize; ++lane)
      if ((mask >> lane & 1) != 0) warp.output<Result>(lane) = reduce(warp, warp.input<T>(lane));
  });
  return result;
}

/// The lanes of `mask` for which matches(value) holds.
template <class T, class Matches>
__forceinline__ unsigned lanes_where(const emulator::Warp& warp, unsigned mask, const Matches& matches) {
  unsigned lanes = 0;
  for (int lane = 0; lane < emulator::kWarpSize; ++lane)
    if ((mask >> lane & 1) != 0 && matches(warp.input<T>(lane))) lanes |= 1u << lane;
  return lanes;
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate) {
  return reduce_over_lanes<unsigned>("__ballot_sync", mask, predicate, [mask](const emulator::Warp& warp, int) {
    return lanes_where<int>(warp, mask, [](int value) { return value != 0; });
  });
}

__forceinline__ int __any_sync(unsigned mask, int predicate) {
  return reduce_over_lanes<int>("__any_sync", mask, predicate, [mask](const emulator::Warp& warp, int) {
    return int(lanes_where<int>(warp, mask, [](int value) { return value != 0; }) != 0);
  });
}

__forceinline__ int __all_sync(unsigned mask, int predicate) {
  return reduce_over_lanes<int>("__all_sync", mask, predicate, [mask](const emulator::Warp& warp, int) {
    return int(lanes_where<int>(warp, mask, [](int value) { return value != 0; }) == mask);
  });
}

/// The lanes that hold the caller's value, compared bit by bit.
template <class T>
__forceinline__ unsigned __match_any_sync(unsigned mask, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "match compares 4 or 8 bytes");
  return reduce_over_lanes<unsigned>("__match_any_sync", mask, value, [mask](const emulator::Warp& warp, T mine) {
    return lanes_where<T>(warp, mask, [&](const T& other) { return memcmp(&other, &mine, sizeof(T)) == 0; });
  });
}

/// `mask` when all its lanes hold the same value, else 0.
template <class T>
__forceinline__ unsigned __match_all_sync(unsigned mask, T value, int* all_match) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "match compares 4 or 8 bytes");
  const unsigned lanes =
      reduce_over_lanes<unsigned>("__match_all_sync", mask, value, [mask](const emulator::Warp& warp, T mine) {
        return lanes_where<T>(warp, mask, [&](const T& other) { return memcmp(&other, &mine, sizeof(T)) == 0; });
      });
  *all_match = lanes == mask;
  return lanes == mask ? mask : 0;
}

/// Folds the values of all lanes of `mask`, in the order of the lanes.
template <class T, class Fold>
__forceinline__ T fold_lanes(const char* operation, unsigned mask, T value, const Fold& fold) {
  static_assert(std::is_same_v<T, unsigned> || std::is_same_v<T, int>, "redux.sync takes 32-bit integers");
  return reduce_over_lanes<T>(operation, mask, value, [mask, &fold](const emulator::Warp& warp, T) {
    T folded{};
    bool first = true;
    for (int lane = 0; lane < emulator::kWarpSize; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      folded = first ? warp.input<T>(lane) : fold(folded, warp.input<T>(lane));
      first = false;
    }
    return folded;
  });
}

template <class T>
__forceinline__ T __reduce_add_sync(unsigned mask, T value) {
  return fold_lanes("__reduce_add_sync", mask, value, [](T a, T b) { return T(unsigned(a) + unsigned(b)); });
}
template <class T>
__forceinline__ T __reduce_min_sync(unsigned mask, T value) {
  return fold_lanes("__reduce_min_sync", mask, value, [](T a, T b) { return b < a ? b : a; });
}
template <class T>
__forceinline__ T __reduce_max_sync(unsigned mask, T value) {
  return fold_lanes("__reduce_max_sync", mask, value, [](T a, T b) { return a < b ? b : a; });
}
__forceinline__ unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return fold_lanes("__reduce_and_sync", mask, value, [](unsigned a, unsigned b) { return a & b; });
}
__forceinline__ unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return fold_lanes("__reduce_or_sync", mask, value, [](unsigned a, unsigned b) { return a | b; });
}
__forceinline__ unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return fold_lanes("__reduce_xor_sync", mask, value, [](unsigned a, unsigned b) { return a ^ b; });
}

}  // namespace LRK_TARGET
}  // namespace lrk
