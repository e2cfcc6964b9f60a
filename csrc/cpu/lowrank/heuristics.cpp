#include "cpu/lowrank/heuristics.h"

#include "cpu/gemm/kernels.h"

namespace lrk::cpu {
namespace {

/// Up to here reading the weight in place beats packing it. Measured in fp32 and bf16: equal at 16 to 24 rows, and at 8
/// where `in` is 256, because the dot tiles' final sums then weigh more.
constexpr int64_t kFewRows = 16, kFewRowsOfShortDepth = 8, kShortDepth = 384;

bool has_few_rows(const LinearTraits& traits) {
  const int64_t most = traits.inner <= kShortDepth ? kFewRowsOfShortDepth : kFewRows;
  return traits.rows <= most && traits.weight_rows_contiguous;
}

/// Up to here fusing gains more than MKL's GEMM does on Intel. Measured on Cascade Lake, eager time over fused and over
/// library + expand: 64 x 1024 x 1024 1.22 and 1.06; 512 x 4096 x 512 0.92 and 0.98; 1024 x 2048 x 2048 0.96 and 1.05.
constexpr int64_t kRowsBeforeMkl = 128;

/// From here on MKL's GEMM computes a factor product in 0.5 to 1.0 of our time on Intel (one thread of Cascade Lake:
/// 512 x 1024, rank 16 and 64, project 0.88 and 1.0, expand 0.5 and 0.75; 2048 x 2048, rank 64, 0.8 to 1.25). Below, the
/// calls weigh more.
constexpr int64_t kLibraryMultiplyAdds = 1 << 17;

/// An expand packs `up`, which one to four rows do not pay for: MKL's matrix-vector products take half of our time (1 x
/// 4096, rank 16, 64 and 256 on two threads: 0.54, 0.47, 0.53; four rows of rank 64 0.60; eight of rank 256 1.07).
constexpr int64_t kVectorRows = 4, kLibraryMultiplyAddsOfVectors = 1 << 16;

/// Whether torch's GEMM and a fused expand are faster than the fused kernel.
bool library_is_faster(const LinearTraits& traits, const CpuInfo& cpu, CpuIsa isa) {
  if (isa == CpuIsa::kPortable) return true;  // nothing here is tuned for such a CPU; its torch may be
  switch (traits.dtype) {
    case DType::kBFloat16: return cpu.avx512_bf16 || cpu.amx_bf16;
    case DType::kFloat16: return cpu.avx512_fp16;
    case DType::kFloat32:
    case DType::kFloat64: return cpu.intel && traits.rows > kRowsBeforeMkl;
  }
  return false;
}

struct Names {
  std::string few_rows, packed, expand, project, project_packed, factor_grad;
  std::string indexed_project, indexed_expand, indexed_factor_grad;

  template <class T>
  static Names make(CpuIsa isa, const Kernels<T>& kernels) {
    const std::string prefix = std::string(name_of(isa)) + "_";
    const std::string tile = prefix + std::to_string(kernels.tile_rows) + "x" + std::to_string(kernels.tile_cols);
    const std::string dot =
        prefix + "dot" + std::to_string(kernels.dot_streamed) + "x" + std::to_string(kernels.dot_resident);
    return {"lowrank_linear_" + dot,          "lowrank_linear_" + tile,         "lowrank_expand_" + tile,
            "lowrank_project_" + dot,         "lowrank_project_" + tile,        "lowrank_factor_grad_" + tile,
            "lowrank_indexed_project_" + dot, "lowrank_indexed_expand_" + tile, "lowrank_indexed_factor_grad_" + tile};
  }
};

template <class T>
const Names& names_of(CpuIsa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::kAvx512: {
      static const Names names = Names::make(isa, kernels_avx512<T>());
      return names;
    }
    case CpuIsa::kAvx2: {
      static const Names names = Names::make(isa, kernels_avx2<T>());
      return names;
    }
#endif
    default: {
      static const Names names = Names::make(CpuIsa::kPortable, kernels_portable<T>());
      return names;
    }
  }
}

const Names& names(DType dtype) {
  const CpuIsa isa = selected_cpu_isa();
  return dtype == DType::kFloat64 ? names_of<double>(isa) : names_of<float>(isa);
}

}  // namespace

const std::string kLibraryGemm = "library_gemm";

bool is_small(const FactorTraits& traits) {
  if (traits.product == FactorTraits::Product::kExpand && traits.rows <= kVectorRows)
    return traits.multiply_adds < kLibraryMultiplyAddsOfVectors;
  return traits.rows <= kFewRows || traits.multiply_adds < kLibraryMultiplyAdds;
}

bool prefers_library(const FactorTraits& traits, const CpuInfo& cpu, CpuIsa isa) {
  return traits.plain && !is_small(traits) && (cpu.intel || isa == CpuIsa::kPortable);
}

const char* library_reason(const FactorTraits& traits, CpuIsa isa) {
  if (!traits.plain) return "dropout, a gate, a half type or several dtypes: more than a GEMM computes";
  if (is_small(traits)) return "little work: the library's call would weigh more";
  if (isa == CpuIsa::kPortable) return "the portable kernels are tuned for no CPU, torch's GEMM may be for this one";
  return cpu_info().intel ? "a plain product of this size: MKL was measured faster on Intel"
                          : "torch's GEMM was not measured faster on CPUs like this";
}

bool uses_library(const FactorTraits& traits, const std::string& name, const std::string& forced) {
  const bool preferred = prefers_library(traits, cpu_info(), selected_cpu_isa());
  if (forced.empty() || !traits.plain) return preferred;
  const bool library_named = kLibraryGemm.find(forced) != std::string::npos;
  const bool kernel_named = name.find(forced) != std::string::npos;
  return library_named == kernel_named ? preferred : library_named;
}

bool is_possible(LinearPath path, const LinearTraits& traits) {
  return path != LinearPath::kFewRows || traits.weight_rows_contiguous;
}

LinearPath preferred_kernel(const LinearTraits& traits) {
  return has_few_rows(traits) ? LinearPath::kFewRows : LinearPath::kPacked;
}

LinearPath preferred_path(const LinearTraits& traits, const CpuInfo& cpu, CpuIsa isa) {
  return !has_few_rows(traits) && library_is_faster(traits, cpu, isa) ? LinearPath::kLibrary : preferred_kernel(traits);
}

std::string reason_for(LinearPath path, LinearPath preferred, const LinearTraits& traits, CpuIsa isa) {
  const bool measured = isa != CpuIsa::kPortable;
  const std::string rows = std::to_string(traits.rows) + (traits.rows == 1 ? " row" : " rows");
  switch (path) {
    case LinearPath::kFewRows:
      if (!traits.weight_rows_contiguous) return "the weight's rows are strided";
      return path == preferred ? rows + ": the weight is read once, in place" : rows + " are worth packing the weight";
    case LinearPath::kPacked:
      if (path == preferred) return "the low-rank term is part of the depth loop and y is written once";
      return preferred == LinearPath::kFewRows   ? rows + " are not worth packing the weight"
             : measured                          ? "torch's GEMM gains more here than fusing does"
                                                 : "nothing here is tuned for this CPU";
    case LinearPath::kLibrary:
      if (path != preferred) {
        return measured ? rows + " in " + name_of(traits.dtype) + ": fused was measured faster on CPUs like this"
                        : rows + ": it would write y twice";
      }
      return measured ? std::string("torch's GEMM is fast in ") + name_of(traits.dtype) + " on this CPU; the rest follows"
                      : "the portable kernels are tuned for no CPU, torch's GEMM may be for this one; the rest follows";
  }
  return "";
}

const std::string& linear_name(LinearPath path, DType dtype) {
  if (path == LinearPath::kLibrary) return kLibraryGemm;
  return path == LinearPath::kFewRows ? names(dtype).few_rows : names(dtype).packed;
}
const std::string& expand_name(DType dtype) { return names(dtype).expand; }
const std::string& project_name(DType dtype, bool packed) {
  return packed ? names(dtype).project_packed : names(dtype).project;
}
const std::string& factor_grad_name(DType dtype) { return names(dtype).factor_grad; }
const std::string& indexed_project_name(DType dtype) { return names(dtype).indexed_project; }
const std::string& indexed_expand_name(DType dtype) { return names(dtype).indexed_expand; }
const std::string& indexed_factor_grad_name(DType dtype) { return names(dtype).indexed_factor_grad; }

std::vector<std::string> kernel_names() {
  std::vector<std::string> all{kLibraryGemm};
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Names& of = names(dtype);
    all.insert(all.end(), {of.few_rows, of.packed, of.expand, of.project, of.project_packed, of.factor_grad});
  }
  return all;
}

std::vector<std::string> indexed_kernel_names() {
  std::vector<std::string> all;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Names& of = names(dtype);
    all.insert(all.end(), {of.indexed_project, of.indexed_expand, of.indexed_factor_grad});
  }
  return all;
}

}  // namespace lrk::cpu
