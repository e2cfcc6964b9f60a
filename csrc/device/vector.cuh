// Aligned vector loads and stores of plain memory: one instruction on the device, a copy the optimiser may not
// reorder by type on the host.
#pragma once

#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// Reads a V (uint4, float4, uint32_t, ...) from memory that holds elements of another type. Aligned to V.
template <class V>
__device__ __forceinline__ V load_vector(const void* source) {
#if defined(LRK_EMULATE)
  emulator::check_alignment(source, sizeof(V), "a vector load");
  V value;
  memcpy(&value, source, sizeof(V));
  return value;
#else
  return *reinterpret_cast<const V*>(source);
#endif
}

template <class V>
__device__ __forceinline__ void store_vector(void* destination, const V& value) {
#if defined(LRK_EMULATE)
  emulator::check_alignment(destination, sizeof(V), "a vector store");
  memcpy(destination, &value, sizeof(V));
#else
  *reinterpret_cast<V*>(destination) = value;
#endif
}

}  // namespace LRK_TARGET
}  // namespace lrk
