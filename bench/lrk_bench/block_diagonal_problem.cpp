#include "block_diagonal_problem.h"

#include <cmath>

#include "element.h"

namespace lrk::bench {
namespace {

/// Independent roundings add like the root of their number; no correct kernel exceeds six deviations.
constexpr double kDeviations = 6;

/// What a half kernel on CUDA leaves of float32 matrices: two halves of each number.
double roundoff_of_matrices(const Case& c, const Device& device) {
  if (device.name() == "cpu") return 0;
  return c.dtype == DType::kBFloat16 ? 0x1p-16 : c.dtype == DType::kFloat16 ? 0x1p-20 : 0;
}

}  // namespace

BlockDiagonalProblem::BlockDiagonalProblem(const Case& c_, Device& device_) : Problem(c_, device_) {
  const auto matrix = [&](int64_t rows, int64_t cols, DType dtype) {
    return std::make_unique<Matrix>(device, rows, cols, dtype);
  };
  x = matrix(c.m, c.k, c.dtype), y = matrix(c.m, c.k, c.dtype), blocks = matrix(c.k, c.block, c.factor_dtype);
  x->fill(1, 1), blocks->fill(2, 1 / std::sqrt(double(c.block)));
  if (!is_backward()) return;
  dy = matrix(c.m, c.k, c.dtype), dblocks = matrix(c.k, c.block, c.factor_dtype);
  dy->fill(3, 1);
}

std::vector<Result> BlockDiagonalProblem::results() const {
  const double sum_error = kDeviations * unit_roundoff(c.factor_dtype);
  std::vector<Result> all;
  all.push_back({is_backward() ? "dx" : "y", y.get(), [this, sum_error](int64_t row) -> RowReference {
    return [this, sum_error, line = row_of((is_backward() ? *dy : *x).host(), row)](int64_t col) {
      const int64_t first = col / c.block * c.block;
      double value = 0, squares = 0;
      for (int64_t i = 0; i < c.block; ++i) {
        const MatrixView matrices = blocks->host();
        const double factor = is_backward() ? element(matrices, col, i) : element(matrices, first + i, col - first);
        const double term = line[size_t(first + i)] * factor;
        value += term, squares += term * term;
      }
      const double sums = sum_error * std::sqrt(double(c.block) * squares) +
                          kDeviations * roundoff_of_matrices(c, device) * std::sqrt(squares);
      return Expected{value, 1.01 * unit_roundoff(c.dtype) * std::fabs(value) + sums};
    };
  }, double(c.k), double(c.block)});
  if (!is_backward()) return all;
  all.push_back({"dblocks", dblocks.get(), [this, sum_error](int64_t row) -> RowReference {
    return [this, sum_error, row](int64_t col) {
      double value = 0, squares = 0;
      for (int64_t i = 0; i < c.m; ++i) {
        const double term = element(x->host(), i, row) * element(dy->host(), i, row / c.block * c.block + col);
        value += term, squares += term * term;
      }
      return Expected{value, sum_error * (std::fabs(value) + std::sqrt(double(c.m) * squares))};
    };
  }, 1, double(c.m)});
  return all;
}

std::vector<Contender> BlockDiagonalProblem::contenders(CublasLt*, std::vector<std::string>*) const {
  std::vector<Contender> all;
  all.push_back({"lrkernels", is_backward() ? "both gradients from one reading" : "all blocks in one call", [this] {
    device.start_call();
    const OrthogonalBackend& backend = device.orthogonal();
    if (is_backward()) {
      BlockDiagonalBackwardArgs args;
      args.grad = dy->view(), args.x = x->view(), args.blocks = blocks->view(), args.block = c.block;
      args.dx = y->view(), args.dblocks = dblocks->view();
      return backend.block_diagonal_backward(args, device.context());
    }
    BlockDiagonalArgs args;
    args.x = x->view(), args.blocks = blocks->view(), args.block = c.block, args.y = y->view();
    return backend.block_diagonal(args, device.context());
  }, results()});
  if (!is_backward()) all.push_back(copy_contender(*this, *x, *y));
  return all;
}

}  // namespace lrk::bench
