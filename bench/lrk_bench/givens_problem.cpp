#include "givens_problem.h"

#include <cmath>
#include <memory>

#include "element.h"

namespace lrk::bench {
namespace {

/// Independent roundings add like the root of their number; no correct kernel exceeds six deviations.
constexpr double kDeviations = 6;

/// One row in double, turned by round t (backwards by `direction` -1).
void turn(const GivensProblem& p, int64_t t, double direction, std::vector<double>* row) {
  const int64_t stride = p.strides[size_t(t)];
  int64_t pair = 0;
  for (int64_t i = 0; i + stride < p.c.k; ++i) {
    if (i / stride % 2 != 0) continue;
    const double angle = direction * element(p.angles->host(), t, pair++);
    double &first = (*row)[size_t(i)], &second = (*row)[size_t(i + stride)];
    const double turned = std::cos(angle) * first - std::sin(angle) * second;
    second = std::sin(angle) * first + std::cos(angle) * second;
    first = turned;
  }
}

double largest(const std::vector<double>& line) {
  double most = 0;
  for (const double value : line) most = std::max(most, std::fabs(value));
  return most;
}

/// All of dangles and the squares of the terms of each sum: rounds by k / 2.
struct AngleGradients {
  std::vector<double> value, squares;
};

AngleGradients angle_gradients(const GivensProblem& p) {
  const int64_t pairs = p.c.k / 2, rounds = p.c.rounds;
  AngleGradients all{std::vector<double>(size_t(rounds * pairs)), std::vector<double>(size_t(rounds * pairs))};
  for (int64_t row = 0; row < p.c.m; ++row) {
    std::vector<double> y = row_of(p.x->host(), row), g = row_of(p.dy->host(), row);
    for (int64_t t = rounds - 1; t >= 0; --t) {
      const int64_t stride = p.strides[size_t(t)];
      int64_t at = t * pairs;
      for (int64_t i = 0; i + stride < p.c.k; ++i) {
        if (i / stride % 2 != 0) continue;
        const double a = g[size_t(i + stride)] * y[size_t(i)], b = g[size_t(i)] * y[size_t(i + stride)];
        all.value[size_t(at)] += a - b, all.squares[size_t(at)] += a * a + b * b;
        ++at;
      }
      turn(p, t, -1, &y), turn(p, t, -1, &g);
    }
  }
  return all;
}

}  // namespace

GivensProblem::GivensProblem(const Case& c_, Device& device_) : Problem(c_, device_) {
  for (int64_t t = 0, stride = 1; t < c.rounds; ++t, stride *= 2) {
    if (stride >= c.k) stride = 1;
    strides.push_back(stride);
  }
  const auto matrix = [&](int64_t rows, int64_t cols, DType dtype) {
    return std::make_unique<Matrix>(device, rows, cols, dtype);
  };
  x = matrix(c.m, c.k, c.dtype), y = matrix(c.m, c.k, c.dtype), angles = matrix(c.rounds, c.k / 2, c.factor_dtype);
  x->fill(1, 1), angles->fill(2, 1);
  if (!is_backward()) return;
  dy = matrix(c.m, c.k, c.dtype), dangles = matrix(c.rounds, c.k / 2, c.factor_dtype);
  dy->fill(3, 1);
}

Status GivensProblem::run(int64_t first, int64_t count, const MatrixView& from, const MutableMatrixView& to) const {
  const OrthogonalBackend& backend = device.orthogonal();
  const auto rows_from = [&](MutableMatrixView view) {
    view.data = static_cast<char*>(view.data) + first * view.row_stride * int64_t(size_of(view.dtype));
    view.rows = count;
    return view;
  };
  GivensRounds rounds;
  rounds.angles = rows_from(angles->view()), rounds.strides = strides.data() + first;
  if (is_backward()) {
    const MutableMatrixView gradient = rows_from(dangles->view());
    return backend.givens_backward({from, dy->view(), rounds, to, gradient}, device.context());
  }
  return backend.givens({from, rounds, to}, device.context());
}

std::vector<Result> GivensProblem::results() const {
  const double walk = double(c.k) * double(c.rounds);
  std::vector<Result> all;
  all.push_back({is_backward() ? "dx" : "y", y.get(), [this](int64_t row) -> RowReference {
    std::vector<double> line = row_of((is_backward() ? *dy : *x).host(), row);
    for (int64_t t = 0; t < c.rounds; ++t)
      is_backward() ? turn(*this, c.rounds - 1 - t, -1, &line) : turn(*this, t, 1, &line);
    const double rotations = kDeviations * unit_roundoff(c.factor_dtype) * std::sqrt(2.0 * double(c.rounds) + 1) *
                             largest(line);
    return [this, line = std::move(line), rotations](int64_t col) {
      const double value = line[size_t(col)];
      return Expected{value, 1.01 * unit_roundoff(c.dtype) * std::fabs(value) + rotations};
    };
  }, walk * 20, 1});
  if (!is_backward()) return all;
  // Every row of dangles needs every row of x: all are computed when the first is asked for.
  const auto gradients = std::make_shared<std::unique_ptr<AngleGradients>>();
  all.push_back({"dangles", dangles.get(), [this, gradients](int64_t t) -> RowReference {
    if (!*gradients) *gradients = std::make_unique<AngleGradients>(angle_gradients(*this));
    return [this, gradients, t](int64_t pair) {
      const size_t at = size_t(t * (c.k / 2) + pair);
      const double value = (*gradients)->value[at], norm = std::sqrt((*gradients)->squares[at]);
      const double terms = std::sqrt(2.0 * double(c.m + c.rounds));
      return Expected{value, kDeviations * unit_roundoff(c.factor_dtype) * terms * norm + 1e-30};
    };
  }, walk * double(c.m) / double(c.rounds), 1});
  return all;
}

std::vector<Contender> GivensProblem::contenders(CublasLt*, std::vector<std::string>*) const {
  std::vector<Contender> all;
  all.push_back({"lrkernels", "every round in one call", [this] {
    device.start_call();
    return run(0, c.rounds, x->view(), y->view());
  }, results()});
  if (!is_backward()) {
    all.push_back({"round_by_round", "the same backend, a call a round", [this] {
      for (int64_t t = 0; t < c.rounds; ++t) {
        device.start_call();
        const Status status = run(t, 1, t == 0 ? MatrixView(x->view()) : MatrixView(y->view()), y->view());
        if (!status.ok()) return status;
      }
      return Status{};
    }, results()});
    if (c.dtype != c.factor_dtype) all.pop_back();  // rounds to half after each: another result
    all.push_back(copy_contender(*this, *x, *y));
  }
  return all;
}

}  // namespace lrk::bench
