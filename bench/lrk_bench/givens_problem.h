// Givens rotations: the operands and the calls that compute them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lrk/orthogonal.h"
#include "matrix.h"
#include "problem.h"

namespace lrk::bench {

/// Rounds of strides 1, 2, 4, ... and again from 1 where `rounds` is longer than the butterfly.
struct GivensProblem : Problem {
  GivensProblem(const Case& c, Device& device);

  bool is_backward() const { return c.operation == Operation::kGivensBackward; }
  /// Rounds [first, first + count) of x (of y and dy) to the results.
  Status run(int64_t first, int64_t count, const MatrixView& from, const MutableMatrixView& to) const;

  ///   round_by_round  the same backend, a call a round
  ///   copy            a copy of as many bytes: the floor
  std::vector<Contender> contenders(CublasLt* library, std::vector<std::string>* notes) const override;

  std::vector<int64_t> strides;
  std::unique_ptr<Matrix> x, angles, dy;  // operands; the backward call's x is what the forward call would return
  std::unique_ptr<Matrix> y, dangles;     // results; y is dx of the backward call

 private:
  std::vector<Result> results() const;
};

}  // namespace lrk::bench
