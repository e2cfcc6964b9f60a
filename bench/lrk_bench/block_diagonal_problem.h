// Block-diagonal products: the operands and the calls that compute them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "matrix.h"
#include "problem.h"

namespace lrk::bench {

struct BlockDiagonalProblem : Problem {
  BlockDiagonalProblem(const Case& c, Device& device);

  bool is_backward() const { return c.operation == Operation::kBlockDiagonalBackward; }

  ///   copy  a copy of as many bytes: the floor
  std::vector<Contender> contenders(CublasLt* library, std::vector<std::string>* notes) const override;

  std::unique_ptr<Matrix> x, blocks, dy;  // operands; blocks lie one below the other
  std::unique_ptr<Matrix> y, dblocks;     // results; y is dx of the backward call

 private:
  std::vector<Result> results() const;
};

}  // namespace lrk::bench
