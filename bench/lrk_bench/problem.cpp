#include "problem.h"

#include <cstdlib>

#include "block_diagonal_problem.h"
#include "cayley_problem.h"
#include "element.h"
#include "givens_problem.h"
#include "lowrank_problem.h"

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
      {Operation::kGivens, Family::kGivens, "givens_apply", "y = x turned by rounds of strides 1, 2, 4, ..."},
      {Operation::kGivensBackward, Family::kGivens, "givens_backward", "dx and dangles from y and dy"},
      {Operation::kBlockDiagonal, Family::kBlocks, "block_diagonal_apply", "y_n = x_n R_n"},
      {Operation::kBlockDiagonalBackward, Family::kBlocks, "block_diagonal_backward", "dx_n = dy_n R_nT, dR_n = x_nT dy_n"},
      {Operation::kCayley, Family::kBlocks, "cayley", "R_n = (I + Q_n)(I - Q_n)^-1"},
  };
  return all;
}

const OperationInfo& info_of(const Case& c) {
  for (const OperationInfo& info : operations())
    if (info.operation == c.operation) return info;
  std::abort();  // an operation without its line above
}

std::string name_of(const Case& c) { return info_of(c).name; }

const std::vector<Size>& sizes_of(const Case& c) {
  static const Size m{"m", &Case::m}, n{"n", &Case::n}, k{"k", &Case::k}, rank{"rank", &Case::rank},
      rounds{"rounds", &Case::rounds}, block{"block", &Case::block};
  static const std::vector<Size> low_rank = {m, n, k, rank}, givens = {m, k, rounds}, products = {m, k, block},
                                 maps = {k, block};
  if (c.operation == Operation::kCayley) return maps;
  switch (info_of(c).family) {
    case Family::kLowRank: return low_rank;
    case Family::kGivens: return givens;
    case Family::kBlocks: break;
  }
  return products;
}

Case relevant(Case c) {
  const Case given = c;
  c.m = c.n = c.k = c.rank = c.rounds = c.block = 0;
  for (const Size& size : sizes_of(given)) c.*size.member = given.*size.member;
  if (c.operation != Operation::kLinear && c.operation != Operation::kExpand) c.bias = false;
  if (info_of(c).family != Family::kLowRank) {
    c.dropout = 0;
    c.factor_dtype = c.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;  // as it is computed
  }
  if (c.operation == Operation::kExpand) c.dropout = 0;
  return c;
}

double flops(const Case& c) {
  const double dense = 2.0 * c.m * c.n * c.k, project = 2.0 * c.m * c.rank * c.k, expand = 2.0 * c.m * c.rank * c.n;
  const double rotations = 3.0 * c.m * c.k * c.rounds;  // six a pair
  const double blocks = 2.0 * c.m * c.k * c.block;
  switch (c.operation) {
    case Operation::kLinear: return dense + project + expand;
    case Operation::kProject: return project;
    case Operation::kExpand: return expand;
    case Operation::kFactorGrad: return 2 * expand + project;
    case Operation::kBackward: return dense + 2 * expand + 2 * project;
    case Operation::kGivens: return rotations;
    case Operation::kGivensBackward: return rotations * 8 / 3;  // y and dy are turned back, and four a pair for dangles
    case Operation::kBlockDiagonal: return blocks;
    case Operation::kBlockDiagonalBackward: return 2 * blocks;
    case Operation::kCayley: return 2.0 * c.k * c.block * c.block;  // an inverse
  }
  return 0;
}

double compulsory_bytes(const Case& c) {
  const double element = double(size_of(c.dtype)), factor = double(size_of(c.factor_dtype));
  const double x = element * c.m * c.k, y = element * c.m * c.n, weight = element * c.n * c.k;
  const double down = factor * c.rank * c.k, up = factor * c.rank * c.n, s = element * c.m * c.rank;
  const double bias = c.bias ? factor * c.n : 0, angles = factor * c.rounds * (c.k / 2);
  const double matrices = factor * c.k * c.block;
  switch (c.operation) {
    case Operation::kLinear: return x + weight + down + up + bias + y;
    case Operation::kProject: return x + down + s;
    case Operation::kExpand: return s + up + bias + 2 * y;
    case Operation::kFactorGrad: return x + y + up + s + s + down + up;
    case Operation::kBackward: return x + y + weight + down + up + s + x + down + up;
    case Operation::kGivens: return 2 * x + angles;
    case Operation::kGivensBackward: return 3 * x + 2 * angles;
    case Operation::kBlockDiagonal: return 2 * x + matrices;
    case Operation::kBlockDiagonalBackward: return 3 * x + 2 * matrices;
    case Operation::kCayley: return element * c.k * ((c.block - 1) / 2.0 + c.block);
  }
  return 0;
}

Contender copy_contender(const Problem& problem, const Matrix& x, Matrix& to) {
  const auto copied = [&x](int64_t row) -> RowReference {
    return [line = row_of(x.host(), row)](int64_t col) { return Expected{line[size_t(col)], 0}; };
  };
  Device& device = problem.device;
  return {"copy", "x copied: the bytes that the operation cannot avoid",
          [&device, &x, &to] { return device.copy(to.view().data, x.view().data, x.bytes()); },
          {{"copy", &to, copied, double(x.cols()), 1}}};
}

std::unique_ptr<Problem> make_problem(const Case& original, Device& device) {
  const Case c = relevant(original);
  switch (c.operation) {
    case Operation::kGivens:
    case Operation::kGivensBackward: return std::make_unique<GivensProblem>(c, device);
    case Operation::kBlockDiagonal:
    case Operation::kBlockDiagonalBackward: return std::make_unique<BlockDiagonalProblem>(c, device);
    case Operation::kCayley: return std::make_unique<CayleyProblem>(c, device);
    default: return std::make_unique<LowRankProblem>(c, device);
  }
}

}  // namespace lrk::bench
