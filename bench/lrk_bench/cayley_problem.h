// Cayley maps of many small skew-symmetric matrices: the operands and the call that computes them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "matrix.h"
#include "problem.h"

namespace lrk::bench {

struct CayleyProblem : Problem {
  CayleyProblem(const Case& c, Device& device);
  std::vector<Contender> contenders(CublasLt* library, std::vector<std::string>* notes) const override;

  std::unique_ptr<Matrix> skew, rotation;
};

}  // namespace lrk::bench
