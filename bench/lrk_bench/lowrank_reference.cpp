// The low-rank operations in double precision, an element at a time, with the error each may have.
//
// A kernel rounds its result once, adds in float (double for float64), and may round the rank's product and the factors
// to the operands' dtype on the way. Those roundings are independent, so their effect on a sum is their size times the
// 2-norm of its terms; kDeviations of that is allowed, which no correct kernel exceeds and a missing term does.
#include <cmath>

#include "device/philox.h"
#include "element.h"
#include "lowrank_problem.h"

namespace lrk::bench {
namespace {

constexpr double kDeviations = 6;

/// A sum and the squares of its terms.
struct Sum {
  double value = 0, squares = 0;
  int64_t terms = 0;

  void add(double term) { value += term, squares += term * term, ++terms; }
  double norm() const { return std::sqrt(squares); }
};

/// One line of a matrix in double, dropped where a mask says so.
std::vector<double> dropped_row_of(const MatrixView& view, int64_t row, const std::vector<double>& mask) {
  std::vector<double> line = row_of(view, row);
  for (size_t col = 0; col < mask.size(); ++col) line[col] *= mask[col];
  return line;
}

template <class Other>
Sum product(const std::vector<double>& line, const Other& other) {
  Sum sum;
  for (size_t i = 0; i < line.size(); ++i) sum.add(line[i] * other(int64_t(i)));
  return sum;
}

struct Roundings {
  double result, sum, branch;  // relative errors of: storing the result, adding a term, an operand of the branch

  Roundings(const Case& c, DType stored)
      : result(unit_roundoff(stored)),
        sum(unit_roundoff(c.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32)),
        branch(unit_roundoff(c.dtype)) {}

  double of(const Sum& sum_, double branch_norm, double value) const {
    const double tiny = 1e-7;  // the smallest float16 numbers; results are of order 1
    const double added = sum * std::sqrt(double(sum_.terms)) * sum_.norm();
    return 1.01 * result * std::fabs(value) + kDeviations * (added + branch * branch_norm) + tiny * (result > 1e-10) +
           1e-14;
  }
};

/// What dropout multiplies element (row, col) of a matrix with `cols` columns by.
class Mask {
 public:
  Mask(const Case& c, int64_t cols, int64_t seed) : probability_(c.dropout), cols_(cols), seed_(uint64_t(seed)) {}
  bool active() const { return probability_ > 0; }
  double at(int64_t row, int64_t col) const {
    if (!active()) return 1;
    const bool kept = philox_element(seed_, uint64_t(row * cols_ + col)) >= dropout_threshold(probability_);
    return kept ? dropout_scale(probability_) : 0;
  }
  std::vector<double> row(int64_t row) const {
    std::vector<double> line;
    for (int64_t col = 0; active() && col < cols_; ++col) line.push_back(at(row, col));
    return line;
  }

 private:
  double probability_;
  int64_t cols_;
  uint64_t seed_;
};

int64_t seed_of(const LowRankProblem& problem) {
  int64_t seed;
  problem.device.download(&seed, problem.seed->view().data, sizeof seed);
  return seed;
}

/// A row of the rank's product: its values, and the norms of the sums they came from.
struct Branch {
  std::vector<double> value, norm;

  void add(const Sum& sum) { value.push_back(sum.value), norm.push_back(std::max(sum.norm(), std::fabs(sum.value))); }
};

Branch branch_of(const MatrixView& s, int64_t row) {
  Branch branch;
  branch.value = row_of(s, row), branch.norm = branch.value;
  return branch;
}

struct Expanded {
  Sum sum;
  double norm = 0;
};

/// scale * branch . (column of the second factor)
template <class Factor>
Expanded expand(const Branch& branch, double scale, const Factor& factor) {
  Expanded expanded;
  double squares = 0;
  for (size_t r = 0; r < branch.value.size(); ++r) {
    const double weight = scale * factor(int64_t(r));
    expanded.sum.add(branch.value[r] * weight);
    squares += branch.norm[r] * branch.norm[r] * weight * weight;
  }
  expanded.norm = std::sqrt(squares);
  return expanded;
}

}  // namespace

std::vector<Result> LowRankProblem::results(Path path) const {
  const Case& c_ = c;
  const Mask mask(c, c.k, seed_of(*this));
  const bool low_rank = path != Path::kDenseOnly;
  const double rank = double(std::max<int64_t>(c.rank, 1));

  const auto branch_of_x = [this, mask](int64_t row) {
    const std::vector<double> dropped = dropped_row_of(x->host(), row, mask.row(row));
    Branch branch;
    for (int64_t r = 0; r < c.rank; ++r)
      branch.add(product(dropped, [&](int64_t i) { return element(down->host(), r, i); }));
    return branch;
  };
  const auto branch_of_dy = [this](int64_t row) {
    const std::vector<double> line = row_of(dy->host(), row);
    Branch branch;
    for (int64_t r = 0; r < c.rank; ++r)
      branch.add(product(line, [&](int64_t i) { return scale * element(up->host(), i, r); }));
    return branch;
  };
  /// dense product + base + scale * branch + bias
  const auto total = [path, rounding = Roundings(c_, c_.dtype)](Sum dense_sum, const Expanded& low, double more) {
    const double between = path == Path::kChained ? 2 * rounding.result * std::fabs(dense_sum.value) : 0;
    Sum all = dense_sum;
    all.value += low.sum.value + more, all.squares += low.sum.squares + more * more, all.terms += low.sum.terms + 1;
    return Expected{all.value, rounding.of(all, low.norm, all.value) + 1.01 * between};
  };

  std::vector<Result> results;
  switch (c.operation) {
    case Operation::kProject:
      results.push_back({"s", s.get(), [=, this](int64_t row) -> RowReference {
        const std::vector<double> dropped = dropped_row_of(x->host(), row, mask.row(row));
        return [=, this, rounding = Roundings(c_, s->dtype())](int64_t r) {
          const Sum sum = product(dropped, [&](int64_t i) { return element(down->host(), r, i); });
          return Expected{sum.value, rounding.of(sum, sum.norm(), sum.value)};
        };
      }, double(c.k), double(c.k)});
      return results;
    case Operation::kExpand:
    case Operation::kLinear:
      results.push_back({"y", y.get(), [=, this](int64_t row) -> RowReference {
        const std::vector<double> line = x ? row_of(x->host(), row) : std::vector<double>{};
        const Branch branch = !low_rank ? Branch{} : x ? branch_of_x(row) : branch_of(s->host(), row);
        return [=, this](int64_t col) {
          const Sum sum = product(line, [&](int64_t i) { return element(weight->host(), col, i); });
          const Expanded low = expand(branch, scale, [&](int64_t r) { return element(up->host(), col, r); });
          return total(sum, low, (base ? element(base->host(), row, col) : 0) +
                                     (bias ? element(bias->host(), 0, col) : 0));
        };
      }, x ? double(c.k) * rank : rank, (x ? double(c.k) : 1) + rank});
      return results;
    default: break;  // the gradients
  }

  if (dx) {
    results.push_back({"dx", dx.get(), [=, this](int64_t row) -> RowReference {
      const std::vector<double> line = row_of(dy->host(), row);
      const Branch branch = low_rank ? branch_of_dy(row) : Branch{};
      return [=, this](int64_t col) {
        const Sum sum = product(line, [&](int64_t i) { return element(weight->host(), i, col); });
        return total(sum, expand(branch, mask.at(row, col), [&](int64_t r) { return element(down->host(), r, col); }), 0);
      };
    }, double(c.n) * rank, double(c.n) + rank});
  }
  if (!low_rank) return results;
  results.push_back({"ddown", ddown.get(), [=, this](int64_t r) -> RowReference {
    std::vector<double> value, norm;  // ds[:, r]
    for (int64_t row = 0; row < c.m; ++row) {
      Sum sum;
      for (int64_t i = 0; i < c.n; ++i) sum.add(scale * element(dy->host(), row, i) * element(up->host(), i, r));
      value.push_back(sum.value), norm.push_back(sum.norm());
    }
    return [=, this, rounding = Roundings(c_, ddown->dtype())](int64_t col) {
      Sum sum;
      double squares = 0;
      for (int64_t row = 0; row < c.m; ++row) {
        const double dropped = element(x->host(), row, col) * mask.at(row, col);
        sum.add(value[size_t(row)] * dropped);
        squares += norm[size_t(row)] * norm[size_t(row)] * dropped * dropped;
      }
      return Expected{sum.value, rounding.of(sum, std::sqrt(squares), sum.value)};
    };
  }, double(c.m) * double(c.n), double(c.m) * (mask.active() ? 8 : 1)});
  results.push_back({"dup", dup.get(), [=, this](int64_t row) -> RowReference {
    const std::vector<double> line = row_of(MatrixView(dy->host()).transposed(), row);
    return [=, this, rounding = Roundings(c_, dup->dtype())](int64_t r) {
      const Sum sum = product(line, [&](int64_t i) { return scale * element(s->host(), i, r); });
      return Expected{sum.value, rounding.of(sum, sum.norm(), sum.value)};
    };
  }, double(c.m), double(c.m)});
  return results;
}

}  // namespace lrk::bench
