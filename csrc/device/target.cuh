// Which machine a translation unit is compiled for: a GPU (nvcc), or the emulated device (any C++ compiler with
// -DLRK_EMULATE; with -DLRK_EMULATOR_CHECKED and instrumentation its checked mode). All device code lives in the inline
// namespace LRK_TARGET, so that GPU and emulator can share a process and a checked build cannot mix with another.
#pragma once

#if defined(LRK_EMULATE)
#if defined(LRK_EMULATOR_CHECKED)
#define LRK_TARGET emulated_checked
#else
#define LRK_TARGET emulated
#endif
#include "device/emulator/cuda_language.h"
#else
#define LRK_TARGET cuda
#include <cuda_runtime.h>
#endif
