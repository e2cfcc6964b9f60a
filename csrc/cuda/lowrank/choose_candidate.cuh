// Which of a table of kernels runs a problem. For its own kinds of Tile and Problem a family gives, in this namespace,
// name_of(candidate, problem) and unsuited(candidate, problem): why another kernel is better, or nothing.
#pragma once

#include <algorithm>
#include <string>

#include "cuda/lowrank/heuristics.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

inline const char* short_name(DType dtype) {
  return dtype == DType::kBFloat16 ? "bf16" : dtype == DType::kFloat16 ? "f16" : "f32";
}

/// Why a kernel cannot run the problem at all; empty when it can.
template <class Tile>
std::string impossible(const Candidate<Tile>& candidate, DType dtype, bool wide) {
  if (candidate.half != (dtype != DType::kFloat32))
    return candidate.half ? "takes bfloat16 and float16" : "takes float32";
  if (candidate.wide && !wide) return "needs 16-byte aligned rows";
  return {};
}

/// The forced candidate if there is one that can run, else the first that suits, else the last that can run.
template <class Tile, size_t kCount, class Problem>
void choose_candidate(const Candidate<Tile> (&candidates)[kCount], const Problem& problem, const std::string& forced,
                      Choice<Tile>& choice) {
  const Candidate<Tile>* possible = nullptr;
  if (!forced.empty()) {
    for (const auto& candidate : candidates) {
      if (!impossible(candidate, problem.dtype, problem.wide).empty()) continue;
      if (choice.candidate == nullptr && name_of(candidate, problem).find(forced) != std::string::npos)
        choice.candidate = &candidate;
    }
    if (choice.candidate != nullptr) choice.reason = "forced by \"" + forced + "\"";
  }
  for (const auto& candidate : candidates) {
    if (&candidate == choice.candidate) continue;
    std::string why_not = impossible(candidate, problem.dtype, problem.wide);
    if (why_not.empty()) {
      why_not = unsuited(candidate, problem);
      if (choice.candidate == nullptr && why_not.empty()) {
        choice.candidate = &candidate;
        choice.reason = "the first candidate that suits the shape";
        continue;
      }
      possible = &candidate;
      if (why_not.empty()) why_not = "another one is preferred";
    }
    choice.rejected.push_back({name_of(candidate, problem), why_not});
  }
  if (choice.candidate == nullptr) {
    choice.candidate = possible;
    choice.reason = "the only kind that can run";
    const std::string kernel = name_of(*possible, problem);
    const auto same = [&](const Rejected& rejected) { return rejected.kernel == kernel; };
    choice.rejected.erase(std::remove_if(choice.rejected.begin(), choice.rejected.end(), same), choice.rejected.end());
  }
  choice.kernel = name_of(*choice.candidate, problem);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
