#include "problem.h"

#include "lowrank_problem.h"
#include "orthogonal_problem.h"

namespace lrk::bench {

const std::vector<OperationInfo>& operations() {
  static const std::vector<OperationInfo> all = {
      {Operation::kLinear, Family::kLowRank, "lowrank_linear", "y = x weightT + scale (drop(x) downT) upT + bias"},
      {Operation::kProject, Family::kLowRank, "lowrank_project", "s = drop(x) downT"},
      {Operation::kExpand, Family::kLowRank, "lowrank_expand", "y = base + scale s upT + bias"},
      {Operation::kFactorGrad, Family::kLowRank, "factor_grad",
       "ds = scale dy up, ddown = dsT drop(x), dup = scale dyT s"},
      {Operation::kBackward, Family::kLowRank, "lowrank_linear_backward",
       "factor_grad, and dx = dy weight + mask (ds down)"},
      {Operation::kGivens, Family::kOrthogonal, "givens_apply", "y = x turned by rounds of strides 1, 2, 4, ..."},
      {Operation::kGivensBackward, Family::kOrthogonal, "givens_backward", "dx and dangles from y and dy"},
  };
  return all;
}

const OperationInfo& info_of(const Case& c) {
  for (const OperationInfo& info : operations())
    if (info.operation == c.operation) return info;
  std::abort();  // an operation without its line above
}

std::string name_of(const Case& c) { return info_of(c).name; }

const std::vector<Size>& sizes_of(Family family) {
  static const std::vector<Size> low_rank = {{"m", &Case::m}, {"n", &Case::n}, {"k", &Case::k}, {"rank", &Case::rank}};
  static const std::vector<Size> orthogonal = {{"m", &Case::m}, {"k", &Case::k}, {"rounds", &Case::rounds}};
  return family == Family::kLowRank ? low_rank : orthogonal;
}

Case relevant(Case c) {
  if (c.operation != Operation::kLinear && c.operation != Operation::kExpand) c.bias = false;
  if (info_of(c).family != Family::kLowRank) {
    c.dropout = 0, c.n = c.rank = 0;
    c.factor_dtype = c.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;  // as the rotations are computed
    return c;
  }
  if (c.operation == Operation::kExpand) c.dropout = 0;
  c.rounds = 0;
  return c;
}

double flops(const Case& c) {
  const double dense = 2.0 * c.m * c.n * c.k, project = 2.0 * c.m * c.rank * c.k, expand = 2.0 * c.m * c.rank * c.n;
  const double rotations = 3.0 * c.m * c.k * c.rounds;  // six a pair
  switch (c.operation) {
    case Operation::kLinear: return dense + project + expand;
    case Operation::kProject: return project;
    case Operation::kExpand: return expand;
    case Operation::kFactorGrad: return 2 * expand + project;
    case Operation::kBackward: return dense + 2 * expand + 2 * project;
    case Operation::kGivens: return rotations;
    case Operation::kGivensBackward: return rotations * 8 / 3;  // y and dy are turned back, and four a pair for dangles
  }
  return 0;
}

double compulsory_bytes(const Case& c) {
  const double element = double(size_of(c.dtype)), factor = double(size_of(c.factor_dtype));
  const double x = element * c.m * c.k, y = element * c.m * c.n, weight = element * c.n * c.k;
  const double down = factor * c.rank * c.k, up = factor * c.rank * c.n, s = element * c.m * c.rank;
  const double bias = c.bias ? factor * c.n : 0, angles = factor * c.rounds * (c.k / 2);
  switch (c.operation) {
    case Operation::kLinear: return x + weight + down + up + bias + y;
    case Operation::kProject: return x + down + s;
    case Operation::kExpand: return s + up + bias + 2 * y;
    case Operation::kFactorGrad: return x + y + up + s + s + down + up;
    case Operation::kBackward: return x + y + weight + down + up + s + x + down + up;
    case Operation::kGivens: return 2 * x + angles;
    case Operation::kGivensBackward: return 3 * x + 2 * angles;
  }
  return 0;
}

std::unique_ptr<Problem> make_problem(const Case& original, Device& device) {
  const Case c = relevant(original);
  if (info_of(c).family == Family::kLowRank) return std::make_unique<LowRankProblem>(c, device);
  return std::make_unique<GivensProblem>(c, device);
}

}  // namespace lrk::bench
