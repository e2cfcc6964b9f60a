#include "cuda/lowrank/indexed_heuristics.cuh"

#include "cuda/lowrank/choose_candidate.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

// In order of preference: the first that suits the problem is taken. Tables for tiles of few rows and of many.
constexpr Candidate<IndexedTile> kFewProject = {IndexedTile::k16x64x64, "sm80_16x64x64", 16, 64, 64, true, true};
constexpr Candidate<IndexedTile> kSmallRank = {IndexedTile::k64x16x64, "sm80_64x16x64", 64, 16, 64, true, true};
constexpr Candidate<IndexedTile> kWide = {IndexedTile::k64x64x64, "sm80_64x64x64", 64, 64, 64, true, true};
constexpr Candidate<IndexedTile> kNarrow = {IndexedTile::kNarrow64x64x64, "sm80_narrow_64x64x64", 64, 64, 64, true,
                                            false};
constexpr Candidate<IndexedTile> kSimtSmallRank = {IndexedTile::kSimt64x16x16, "simt_64x16x16", 64, 16, 16, false,
                                                   false};
constexpr Candidate<IndexedTile> kSimt = {IndexedTile::kSimt64x64x16, "simt_64x64x16", 64, 64, 16, false, false};
constexpr Candidate<IndexedTile> kFewLinear = {IndexedTile::k16x64x64Linear, "sm80_16x64x64", 16, 64, 64, true, true};
constexpr Candidate<IndexedTile> kWideLinear = {IndexedTile::k64x64x32, "sm80_64x64x32", 64, 64, 32, true, true};
constexpr Candidate<IndexedTile> kNarrowLinear = {IndexedTile::kNarrow64x64x32, "sm80_narrow_64x64x32", 64, 64, 32,
                                                  true, false};

constexpr Candidate<IndexedTile> kFewProjectTable[] = {kFewProject, kNarrow, kSimtSmallRank, kSimt};
constexpr Candidate<IndexedTile> kManyTable[] = {kSmallRank, kWide, kNarrow, kSimtSmallRank, kSimt};
constexpr Candidate<IndexedTile> kFewLinearTable[] = {kFewLinear, kNarrowLinear, kSimt};
constexpr Candidate<IndexedTile> kLinearTable[] = {kWideLinear, kNarrowLinear, kSimt};

const char* operation_of(const IndexedProblem& problem) {
  switch (problem.product) {
    case IndexedProduct::kProject: return "project_";
    case IndexedProduct::kLinear: return problem.has_weight ? "linear_" : "expand_";
    case IndexedProduct::kFactorGrad: return "factor_grad_";
  }
  return "";
}

}  // namespace

// What choose_candidate asks of a problem.
std::string name_of(const Candidate<IndexedTile>& candidate, const IndexedProblem& problem) {
  return std::string("lowrank_indexed_") + operation_of(problem) + candidate.name + "_" + short_name(problem.dtype) +
         (problem.across && candidate.half && problem.product == IndexedProduct::kLinear ? "_transposed" : "");
}

std::string unsuited(const Candidate<IndexedTile>& candidate, const IndexedProblem& problem) {
  if (candidate.tile_n == 16 && problem.rank > 16) return "the rank is above 16: x would be read again";
  return {};
}

Choice<IndexedTile> choose_indexed(const IndexedProblem& problem, const std::string& forced) {
  Choice<IndexedTile> choice;
  const bool few = problem.tile_rows <= 16;
  if (problem.product == IndexedProduct::kLinear) {
    few ? choose_candidate(kFewLinearTable, problem, forced, choice)
        : choose_candidate(kLinearTable, problem, forced, choice);
  } else if (few && problem.product == IndexedProduct::kProject) {
    choose_candidate(kFewProjectTable, problem, forced, choice);
  } else {
    choose_candidate(kManyTable, problem, forced, choice);
  }
  return choice;
}

void split_indexed_sum(int64_t in, int64_t tiles, int multiprocessors, Choice<IndexedTile>& choice) {
  constexpr int64_t kBlocksPerMultiprocessor = 3, kMinTilesPerSplit = 4, kMaxSplits = 16;
  const int64_t blocks = (in + choice.candidate->tile_k - 1) / choice.candidate->tile_k;
  const int64_t wanted = multiprocessors * kBlocksPerMultiprocessor / std::max<int64_t>(tiles, 1);
  const int64_t most = std::max<int64_t>(1, std::min(blocks / kMinTilesPerSplit, kMaxSplits));
  const int64_t splits = std::clamp<int64_t>(wanted, 1, most);
  const int64_t per_split = std::max<int64_t>(1, (blocks + splits - 1) / splits);
  choice.blocks_per_split = int(per_split);
  choice.splits = int(std::max<int64_t>(1, (blocks + per_split - 1) / per_split));
  if (choice.splits > 1) choice.reason += "; the sum is cut into " + std::to_string(choice.splits) + " parts";
}

std::vector<std::string> indexed_kernel_names() {
  std::vector<std::string> names;
  const auto add = [&](const auto& table, const IndexedProblem& problem) {
    for (const auto& candidate : table)
      if (impossible(candidate, problem.dtype, true).empty()) names.push_back(name_of(candidate, problem));
  };
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    IndexedProblem problem;
    problem.dtype = dtype;
    add(kFewProjectTable, problem), add(kManyTable, problem);
    problem.product = IndexedProduct::kFactorGrad;
    add(kManyTable, problem);
    problem.product = IndexedProduct::kLinear;
    for (const bool weight : {false, true})
      for (const bool across : {false, true}) {
        problem.has_weight = weight, problem.across = across;
        add(kFewLinearTable, problem), add(kLinearTable, problem);
      }
  }
  return names;
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
