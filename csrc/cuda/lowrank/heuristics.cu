#include "cuda/lowrank/choose_candidate.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

// In order of preference: the first that suits the problem is taken.
constexpr Candidate<LinearTile> kLinearCandidates[] = {
    {LinearTile::k16x64x64, "sm80_16x64x64", 16, 64, 64, true, true},
    {LinearTile::k128x128x32, "sm80_128x128x32", 128, 128, 32, true, true},
    {LinearTile::k64x64x32, "sm80_64x64x32", 64, 64, 32, true, true},
    {LinearTile::kNarrow64x64x32, "sm80_narrow_64x64x32", 64, 64, 32, true, false},
    {LinearTile::kSimt128x128x16, "simt_128x128x16", 128, 128, 16, false, false},
    {LinearTile::kSimt64x64x16, "simt_64x64x16", 64, 64, 16, false, false},
};
constexpr Candidate<SplitTile> kSplitCandidates[] = {
    {SplitTile::k64x16x64, "sm80_64x16x64", 64, 16, 64, true, true},
    {SplitTile::k64x64x64, "sm80_64x64x64", 64, 64, 64, true, true},
    {SplitTile::k64x128x64, "sm80_64x128x64", 64, 128, 64, true, true},
    {SplitTile::kNarrow64x64x64, "sm80_narrow_64x64x64", 64, 64, 64, true, false},
    {SplitTile::kSimt128x16x16, "simt_128x16x16", 128, 16, 16, false, false},
    {SplitTile::kSimt64x64x16, "simt_64x64x16", 64, 64, 16, false, false},
};

constexpr const char* kLibrary = "library_gemm";

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// What choose_candidate asks of a problem.
std::string name_of(const Candidate<LinearTile>& candidate, const LinearProblem& problem) {
  return std::string(problem.has_weight ? "lowrank_linear_" : "lowrank_expand_") + candidate.name + "_" +
         short_name(problem.dtype) + (problem.weight_across && candidate.half ? "_transposed" : "");
}

std::string name_of(const Candidate<SplitTile>& candidate, const SplitProblem& problem) {
  return std::string("lowrank_") + problem.operation + "_" + candidate.name + "_" + short_name(problem.dtype);
}

std::string unsuited(const Candidate<LinearTile>& candidate, const LinearProblem& problem) {
  const int64_t tiles = ceil_div(problem.rows, candidate.tile_m) * ceil_div(problem.out, candidate.tile_n);
  if (candidate.tile_m == 16 && problem.rows > 16) return "more than 16 rows";
  if (candidate.tile_m == 128 && !problem.has_weight && problem.rank <= 128)
    return "an expand of small rank is bound by memory: smaller tiles keep more blocks in flight";
  if (candidate.tile_m == 128 && tiles < problem.multiprocessors)
    return std::to_string(tiles) + " tiles leave some of " + std::to_string(problem.multiprocessors) +
           " multiprocessors idle";
  return {};
}

std::string unsuited(const Candidate<SplitTile>& candidate, const SplitProblem& problem) {
  if (candidate.tile_n == 16 && problem.rank > 16) return "the rank is above 16: x would be read again";
  if (candidate.tile_n == 64 && candidate.wide && problem.rank > 64)
    return "the rank is above 64: x would be read again";
  return {};
}

bool prefers_library(const LinearProblem& problem, const std::string& forced) {
  if (!problem.has_weight) return false;
  return forced.empty() ? !kEmulated : choose_linear(problem, forced).library_gemm;
}

Choice<LinearTile> choose_linear(const LinearProblem& problem, const std::string& forced) {
  Choice<LinearTile> choice;
  choose_candidate(kLinearCandidates, problem, forced, choice);
  if (!problem.has_weight) return choice;

  const std::string library = kLibrary;
  const bool forced_fused = choice.reason.rfind("forced", 0) == 0;
  const bool forced_library = !forced_fused && !forced.empty() && library.find(forced) != std::string::npos;
  if (forced_fused || (kEmulated && !forced_library)) {
    choice.rejected.push_back({library, forced_fused ? "another kernel is forced" : "the emulator has no library"});
    return choice;
  }
  choice.rejected.insert(choice.rejected.begin(),
                         {choice.kernel, forced_library ? "another kernel is forced"
                                                        : "not measured faster than the library on hardware"});
  choice.kernel = library;
  choice.reason = forced_library ? "forced by \"" + forced + "\""
                                 : "the default until a fused kernel is measured faster";
  choice.library_gemm = true;
  return choice;
}

Choice<SplitTile> choose_split(const SplitProblem& problem, const std::string& forced) {
  Choice<SplitTile> choice;
  choose_candidate(kSplitCandidates, problem, forced, choice);

  // Enough parts for every multiprocessor to hold a few blocks, but each part long enough (four tiles) that its
  // partial sums are few beside what it reads.
  constexpr int64_t kBlocksPerMultiprocessor = 3, kMinTilesPerSplit = 4, kMaxSplits = 64;
  const Candidate<SplitTile>& candidate = *choice.candidate;
  const int64_t tiles = ceil_div(problem.extent, candidate.tile_m) * ceil_div(problem.rank, candidate.tile_n);
  const int64_t sum_tiles = ceil_div(problem.sum, candidate.tile_k);
  const int64_t wanted = ceil_div(problem.multiprocessors * kBlocksPerMultiprocessor, std::max<int64_t>(tiles, 1));
  const int64_t most = std::max<int64_t>(1, std::min(sum_tiles / kMinTilesPerSplit, kMaxSplits));
  const int64_t per_split = std::max<int64_t>(1, ceil_div(sum_tiles, std::clamp<int64_t>(wanted, 1, most)));
  choice.blocks_per_split = int(per_split);
  choice.splits = int(std::max<int64_t>(1, ceil_div(sum_tiles, per_split)));
  if (choice.splits > 1) choice.reason += "; the sum is cut into " + std::to_string(choice.splits) + " parts";
  return choice;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names{kLibrary};
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    LinearProblem linear;
    linear.dtype = dtype;
    for (const bool has_weight : {true, false}) {
      for (const bool across : {false, true}) {
        linear.has_weight = has_weight, linear.weight_across = across;
        for (const auto& candidate : kLinearCandidates) {
          if (!impossible(candidate, dtype, true).empty() || (across && !candidate.half)) continue;
          names.push_back(name_of(candidate, linear));
        }
      }
    }
    SplitProblem split;
    split.dtype = dtype;
    for (const char* operation : {"project", "factor_grad"}) {
      split.operation = operation;
      for (const auto& candidate : kSplitCandidates)
        if (impossible(candidate, dtype, true).empty()) names.push_back(name_of(candidate, split));
    }
  }
  return names;
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
