// Which way an orthogonal op goes on the CPU, apart from the kernels.
#pragma once

#include <string>

#include "lrk/types.h"
#include "runtime/cpu_features.h"

namespace lrk::cpu {

inline const std::string kLibraryProduct = "library_gemm";

/// Whether the caller's library is faster for y_n = x_n R_n with blocks of this size; it takes one dtype alone.
bool prefers_library_blocks(DType x, DType blocks, int64_t block, const CpuInfo& cpu, CpuIsa isa);

/// The same, unless `forced` names another possible way: the library, or the kernel called `name`.
bool uses_library_blocks(DType x, DType blocks, int64_t block, const std::string& name, const std::string& forced);

}  // namespace lrk::cpu
