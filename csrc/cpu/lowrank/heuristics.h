// Which CPU path computes a low-rank product. A pure function of the CPU's features, dtype and shape: never a timing
// made while the program runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lrk/types.h"
#include "runtime/cpu_features.h"

namespace lrk::cpu {

enum class LinearPath { kPacked, kFewRows, kLibrary };
constexpr LinearPath kLinearPaths[] = {LinearPath::kPacked, LinearPath::kFewRows, LinearPath::kLibrary};

/// A product with a weight.
struct LinearTraits {
  int64_t rows = 0, inner = 0;
  DType dtype = DType::kFloat32;
  bool weight_rows_contiguous = false;
};

/// A product with one small side: project, factor_grad, or a linear without a weight.
struct FactorTraits {
  enum class Product { kProject, kExpand, kFactorGrad } product = Product::kProject;
  int64_t multiply_adds = 0, rows = 0;
  DType dtype = DType::kFloat32;
  bool plain = false;  // one dtype everywhere and nothing that a GEMM, alpha a b + beta c, does not have
};

/// Whether the caller's library GEMM computes a factor product.
bool prefers_library(const FactorTraits& traits, const CpuInfo& cpu, CpuIsa isa);
/// Why prefers_library answers so.
const char* library_reason(const FactorTraits& traits, CpuIsa isa);
/// The same, unless `forced` names another way: the library, or the kernel called `name`.
bool uses_library(const FactorTraits& traits, const std::string& name, const std::string& forced);
extern const std::string kLibraryGemm;

bool is_possible(LinearPath path, const LinearTraits& traits);
LinearPath preferred_path(const LinearTraits& traits, const CpuInfo& cpu, CpuIsa isa);
/// Among the kernels of this library alone.
LinearPath preferred_kernel(const LinearTraits& traits);

/// Why `path` is the preferred one, or is not.
std::string reason_for(LinearPath path, LinearPath preferred, const LinearTraits& traits, CpuIsa isa);

/// Names for the current instruction set, made once: family, direction, instruction set and tile.
const std::string& linear_name(LinearPath path, DType dtype);
const std::string& expand_name(DType dtype);
const std::string& project_name(DType dtype, bool packed);
const std::string& factor_grad_name(DType dtype);
const std::string& indexed_project_name(DType dtype);
const std::string& indexed_expand_name(DType dtype);
const std::string& indexed_factor_grad_name(DType dtype);
std::vector<std::string> kernel_names();
std::vector<std::string> indexed_kernel_names();

// tests/cpp/test_cpu_lowrank.cpp runs every instruction set that its machine has; so far that was always x86-64.
#if defined(__x86_64__)
constexpr bool kTestedOnHardware = true;
#else
constexpr bool kTestedOnHardware = false;
#endif

}  // namespace lrk::cpu
