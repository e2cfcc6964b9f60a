// Which machine a translation unit is compiled for: a GPU (nvcc), or the emulated device (any C++ compiler with
// -DLRK_EMULATE). All device code lives in the inline namespace LRK_TARGET, so that both can share a process.
#pragma once

#if defined(LRK_EMULATE)
#define LRK_TARGET emulated
#include "device/emulator/cuda_language.h"
#else
#define LRK_TARGET cuda
#include <cuda_runtime.h>
#endif
