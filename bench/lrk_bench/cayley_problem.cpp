#include "cayley_problem.h"

#include <cmath>
#include <map>

#include "element.h"

namespace lrk::bench {
namespace {

/// (I + Q)(I - Q)^-1 = 2 (I - Q)^-1 - I in double, by Gauss-Jordan elimination with row pivots.
std::vector<double> cayley_of(const std::vector<double>& triangle, int64_t block) {
  const size_t b = size_t(block);
  std::vector<double> left(b * b), right(b * b);
  for (size_t i = 0, at = 0; i < b; ++i) {
    left[i * b + i] = right[i * b + i] = 1;
    for (size_t j = i + 1; j < b; ++j, ++at) left[i * b + j] = -triangle[at], left[j * b + i] = triangle[at];
  }
  for (size_t pivot = 0; pivot < b; ++pivot) {
    size_t best = pivot;
    for (size_t i = pivot; i < b; ++i)
      if (std::fabs(left[i * b + pivot]) > std::fabs(left[best * b + pivot])) best = i;
    for (size_t j = 0; j < b; ++j)
      std::swap(left[pivot * b + j], left[best * b + j]), std::swap(right[pivot * b + j], right[best * b + j]);
    const double scale = 1 / left[pivot * b + pivot];
    for (size_t j = 0; j < b; ++j) left[pivot * b + j] *= scale, right[pivot * b + j] *= scale;
    for (size_t i = 0; i < b; ++i) {
      const double factor = left[i * b + pivot];
      if (i == pivot || factor == 0) continue;
      for (size_t j = 0; j < b; ++j)
        left[i * b + j] -= factor * left[pivot * b + j], right[i * b + j] -= factor * right[pivot * b + j];
    }
  }
  for (size_t i = 0; i < b; ++i)
    for (size_t j = 0; j < b; ++j) right[i * b + j] = 2 * right[i * b + j] - (i == j ? 1 : 0);
  return right;
}

}  // namespace

CayleyProblem::CayleyProblem(const Case& c_, Device& device_) : Problem(c_, device_) {
  skew = std::make_unique<Matrix>(device, c.k / c.block, c.block * (c.block - 1) / 2, c.dtype);
  rotation = std::make_unique<Matrix>(device, c.k, c.block, c.dtype);
  skew->fill(1, 1 / std::sqrt(double(c.block)));
}

std::vector<Contender> CayleyProblem::contenders(CublasLt*, std::vector<std::string>*) const {
  // Rows of a block share its inverse.
  const auto found = std::make_shared<std::map<int64_t, std::vector<double>>>();
  const auto reference = [this, found](int64_t row) -> RowReference {
    const int64_t index = row / c.block;
    if (!found->count(index)) (*found)[index] = cayley_of(row_of(skew->host(), index), c.block);
    return [this, found, index, row](int64_t col) {
      const double value = (*found)[index][size_t(row % c.block * c.block + col)];
      // An orthogonal matrix' entries are at most 1; the inverse is well conditioned for Q of this size.
      const double sums = 16 * unit_roundoff(c.factor_dtype) * std::sqrt(double(c.block));
      return Expected{value, 1.01 * unit_roundoff(c.dtype) * std::fabs(value) + sums};
    };
  };
  const double inverse = 2.0 * double(c.block) * double(c.block);  // a row's share of it
  return {{"lrkernels", "every matrix in one call", [this] {
    device.start_call();
    CayleyArgs args;
    args.skew = skew->view(), args.count = c.k / c.block, args.block = c.block, args.rotation = rotation->view();
    return device.orthogonal().cayley(args, device.context());
  }, {{"rotation", rotation.get(), reference, inverse, 1}}}};
}

}  // namespace lrk::bench
