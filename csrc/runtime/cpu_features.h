// What the running CPU can execute, asked once by CPUID (and XGETBV: the operating system must save the registers).
#pragma once

namespace lrk {

enum class CpuIsa { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

struct CpuInfo {
  bool intel = false;        // MKL takes its fast paths
  bool avx2 = false;         // AVX2 with FMA and F16C
  bool avx512 = false;       // F, BW, VL, DQ
  bool avx512_vnni = false;
  bool avx512_bf16 = false;  // vdpbf16ps
  bool avx512_fp16 = false;
  bool amx_bf16 = false;
};

const CpuInfo& cpu_info();

/// The instruction set the CPU kernels use: the best one, or what LRK_CPU_ISA=avx512|avx2|portable lowers it to. Chosen
/// at the first call, for the life of the process.
CpuIsa selected_cpu_isa();
const char* name_of(CpuIsa isa);

}  // namespace lrk
