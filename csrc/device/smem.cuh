// Dynamic shared memory, the only kind the kernels use: its size is a launch parameter, so one place sets the limit.
#pragma once

#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(LRK_EMULATE)
  return reinterpret_cast<T*>(emulator::shared_base());
#else
  extern __shared__ __align__(1024) unsigned char lrk_dynamic_shared_bytes[];
  return reinterpret_cast<T*>(lrk_dynamic_shared_bytes);
#endif
}

}  // namespace LRK_TARGET
}  // namespace lrk
