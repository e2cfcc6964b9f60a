// Which kernel of the indexed products runs, and why: from a problem to a printable choice, as heuristics.cuh.
#pragma once

#include "cuda/lowrank/heuristics.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

enum class IndexedTile {
  k16x64x64, k64x16x64, k64x64x64, kNarrow64x64x64,  // project and factor_grad
  k16x64x64Linear, k64x64x32, kNarrow64x64x32,
  kSimt64x16x16, kSimt64x64x16,
};

enum class IndexedProduct { kProject, kLinear, kFactorGrad };

struct IndexedProblem {
  IndexedProduct product = IndexedProduct::kProject;
  int64_t rank = 0;
  int64_t tile_rows = 64;  // of the routing: a kernel's tile holds as many
  DType dtype = DType::kFloat32;
  bool across = false;      // the factors lie across the sum, a transposed view
  bool has_weight = false;  // of linear
  bool wide = true;         // 16-byte accesses to all operands are aligned
};

Choice<IndexedTile> choose_indexed(const IndexedProblem& problem, const std::string& forced);

/// Into how many parts project's sum of `in` is cut, for enough blocks where rows are few.
void split_indexed_sum(int64_t in, int64_t tiles, int multiprocessors, Choice<IndexedTile>& choice);

std::vector<std::string> indexed_kernel_names();

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
