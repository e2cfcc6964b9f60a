// What this build contains and what this machine offers.
#pragma once

#include <string>
#include <vector>

namespace lrk {

struct BuildInfo {
  std::string version;
  std::string compiler;
  bool cuda = false;                    // CUDA kernels were compiled
  bool emulator = false;                // the CUDA kernels were also compiled for the CPU
  bool emulator_checked = false;        // and look at every memory access there
  std::string cuda_toolkit;             // "13.0", empty without CUDA
  std::vector<std::string> cuda_archs;  // "sm_80", "sm_90a"
  std::string cuda_reason;              // why CUDA is, or is not, there
};

BuildInfo build_info();

/// Instruction sets the running CPU offers, among those the kernels ask about, best last.
std::vector<std::string> cpu_features();
/// "avx512", "avx2" or "portable": what the CPU kernels use here (LRK_CPU_ISA lowers it).
std::string cpu_isa();

}  // namespace lrk
