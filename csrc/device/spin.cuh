// The only loop that waits for another thread to write: the emulator must let others run meanwhile, and tells a wait
// that can never end.
#pragma once

#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// Calls ready(), which reads a flag by an atomic or volatile load, until it answers true.
template <class Ready>
__device__ __forceinline__ void spin_until(const Ready& ready) {
  while (!ready()) {
#if defined(LRK_EMULATE)
    emulator::spin_wait();
#else
    __nanosleep(32);
#endif
  }
}

}  // namespace LRK_TARGET
}  // namespace lrk
