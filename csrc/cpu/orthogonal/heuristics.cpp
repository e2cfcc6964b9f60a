#include "cpu/orthogonal/heuristics.h"

namespace lrk::cpu {
namespace {

/// Up to here our kernel gains from reading x and writing y once what MKL gains in its products. Measured on Cascade
/// Lake by bench/block_diagonal.py, float32, 1024 rows of 4096, MKL's time over ours: blocks of 32 1.5, 64 1.3, 128 1.1,
/// 256 0.9.
constexpr int64_t kBlockBeforeMkl = 192;

bool library_is_possible(DType x, DType blocks) {
  return x == blocks && (x == DType::kFloat32 || x == DType::kFloat64);
}

}  // namespace

bool prefers_library_blocks(DType x, DType blocks, int64_t block, const CpuInfo& cpu, CpuIsa isa) {
  return library_is_possible(x, blocks) && block >= kBlockBeforeMkl && (cpu.intel || isa == CpuIsa::kPortable);
}

bool uses_library_blocks(DType x, DType blocks, int64_t block, const std::string& name, const std::string& forced) {
  const bool preferred = prefers_library_blocks(x, blocks, block, cpu_info(), selected_cpu_isa());
  if (forced.empty() || !library_is_possible(x, blocks)) return preferred;
  const bool library_named = kLibraryProduct.find(forced) != std::string::npos;
  const bool kernel_named = name.find(forced) != std::string::npos;
  return library_named == kernel_named ? preferred : library_named;
}

}  // namespace lrk::cpu
