// Which kernel of the family runs for which shapes, and why: pure functions on the host, from a problem to a printable
// choice. A new kernel (a Hopper one, say) is one more line in a candidate table and one more case in a launcher.
#pragma once

#include <string>
#include <vector>

#include "device/target.cuh"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

#if defined(LRK_EMULATE)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

/// What a choice may depend on. `wide`: 16-byte accesses to the large operands are aligned.
struct LinearProblem {
  int64_t rows = 0, out = 0, in = 0, rank = 0;
  DType dtype = DType::kFloat32;
  bool has_weight = false;    // otherwise expand only
  bool weight_across = false;  // weight (for expand: up) is contiguous along `out`, a transposed view
  bool wide = true;
  int multiprocessors = 1;
};

/// A sum of length `sum` for each of `extent` x `rank` outputs, extent being the large operand's other side.
struct SplitProblem {
  const char* operation = "";  // "project" or "factor_grad"
  int64_t extent = 0, rank = 0, sum = 0;
  DType dtype = DType::kFloat32;
  bool wide = true;
  int multiprocessors = 1;
};

enum class LinearTile { k128x128x32, k64x64x32, k16x64x64, kNarrow64x64x32, kSimt128x128x16, kSimt64x64x16 };
enum class SplitTile { k64x128x64, k64x64x64, k64x16x64, kNarrow64x64x64, kSimt64x64x16, kSimt128x16x16 };

/// A kernel that could run: its name's middle part and the tile of m x n x k it computes.
template <class Tile>
struct Candidate {
  Tile tile;
  const char* name;
  int tile_m, tile_n, tile_k;
  bool half, wide;
};

template <class Tile>
struct Choice {
  const Candidate<Tile>* candidate = nullptr;
  std::string kernel, reason;
  std::vector<Rejected> rejected;
  bool library_gemm = false;
  int splits = 1, blocks_per_split = 0;

  Plan plan(size_t workspace_bytes) const {
    Plan result;
    result.kernel = kernel, result.reason = reason, result.rejected = rejected;
    result.workspace_bytes = workspace_bytes, result.library_gemm = library_gemm;
    return result;
  }
};

/// Whether the library computes the dense product: what choose_linear says in Choice::library_gemm, without the words.
bool prefers_library(const LinearProblem& problem, const std::string& forced);

/// `forced` is the substring of force_kernel(), empty for the heuristics' own choice.
Choice<LinearTile> choose_linear(const LinearProblem& problem, const std::string& forced);
Choice<SplitTile> choose_split(const SplitProblem& problem, const std::string& forced);

/// Every name a choice may have.
std::vector<std::string> kernel_names();

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
