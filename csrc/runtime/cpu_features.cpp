#include "runtime/cpu_features.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "lrk/build_info.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace lrk {
namespace {

#if defined(__x86_64__)
unsigned long long enabled_register_state() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

CpuInfo detect() {
  CpuInfo info;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx)) return info;
  info.intel = ebx == signature_INTEL_ebx && ecx == signature_INTEL_ecx && edx == signature_INTEL_edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return info;
  const bool fma = ecx & (1u << 12), osxsave = ecx & (1u << 27), f16c = ecx & (1u << 29);
  if (!osxsave) return info;
  const unsigned long long state = enabled_register_state();
  const bool os_avx = (state & 0x6) == 0x6, os_avx512 = (state & 0xe6) == 0xe6, os_amx = (state & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return info;
  const unsigned subleaves = eax;
  const auto has = [](unsigned word, int bit) { return ((word >> bit) & 1u) != 0; };
  info.avx2 = os_avx && fma && f16c && has(ebx, 5);
  info.avx512 = info.avx2 && os_avx512 && has(ebx, 16) && has(ebx, 17) && has(ebx, 30) && has(ebx, 31);
  info.avx512_vnni = info.avx512 && has(ecx, 11);
  info.avx512_fp16 = info.avx512 && has(edx, 23);
  info.amx_bf16 = info.avx512 && os_amx && has(edx, 22) && has(edx, 24);
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) info.avx512_bf16 = info.avx512 && has(eax, 5);
  return info;
}
#else
CpuInfo detect() { return {}; }
#endif

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = detect();
  return info;
}

namespace {

CpuIsa select_cpu_isa() {
  const CpuIsa best = cpu_info().avx512 ? CpuIsa::kAvx512 : cpu_info().avx2 ? CpuIsa::kAvx2 : CpuIsa::kPortable;
  const char* wanted = std::getenv("LRK_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512})
    if (std::strcmp(wanted, name_of(isa)) == 0) return std::min(best, isa);
  std::fprintf(stderr, "lrk: LRK_CPU_ISA has no '%s'; accepted values: avx512, avx2, portable\n", wanted);
  return best;
}

}  // namespace

CpuIsa selected_cpu_isa() {
  static const CpuIsa isa = select_cpu_isa();
  return isa;
}

const char* name_of(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512: return "avx512";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kPortable: return "portable";
  }
  return "unknown";
}

std::vector<std::string> cpu_features() {
  const CpuInfo& info = cpu_info();
  std::vector<std::string> features;
#if defined(__aarch64__)
  features.push_back("neon");
#endif
  if (info.avx2) features.push_back("avx2");
  if (info.avx512) features.push_back("avx512");
  if (info.avx512_vnni) features.push_back("avx512_vnni");
  if (info.avx512_bf16) features.push_back("avx512_bf16");
  if (info.avx512_fp16) features.push_back("avx512_fp16");
  if (info.amx_bf16) features.push_back("amx_bf16");
  return features;
}

std::string cpu_isa() { return name_of(selected_cpu_isa()); }

}  // namespace lrk
