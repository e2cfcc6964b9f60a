// The only loop that waits for another thread to write: the emulator must let others run meanwhile, and tells a wait
// that can never end.
#pragma once

#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {

/// Calls ready(), which reads a flag by an atomic or volatile load, until it answers true.
template <class Ready>
__device__ __forceinline__ void spin_until(const Ready& ready) {
#if defined(LRK_EMULATE)
  if (ready()) return;
  do emulator::spin_wait();
  while (!ready());
  emulator::spin_done();
#else
  while (!ready()) __nanosleep(32);
#endif
}

}  // namespace LRK_TARGET
}  // namespace lrk
