// PTX ISA, "Parallel Synchronization and Communication Instructions: griddepcontrol" (sm_90): programmatic dependent
// launch, in which a kernel may start before the one before it on the stream has finished. Both calls do nothing in a
// kernel that was launched in the ordinary way, and are absent from code compiled for less than sm_90, which launch.cuh
// therefore launches in the ordinary way on every device.
#pragma once

#include "device/target.cuh"

#if defined(LRK_EMULATE)
#include "device/emulator/thread.h"
#endif

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

/// griddepcontrol.wait: until the launches this one depends on have finished and their writes are visible. What they
/// wrote is read after this call, and what they read is written after it.
__device__ __forceinline__ void griddepcontrol_wait() {
#if defined(LRK_EMULATE)
  emulator::grid_dependency_wait();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// griddepcontrol.launch_dependents: the next launch may start once every block has called this or exited. It says
/// nothing of this block's writes: only griddepcontrol_wait makes them visible.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if defined(LRK_EMULATE)
  emulator::grid_dependency_trigger();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
