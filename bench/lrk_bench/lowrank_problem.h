// The operands of the low-rank operations and the calls that compute them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "problem.h"

namespace lrk::bench {

/// Members an operation does not use are null.
struct LowRankProblem : Problem {
  LowRankProblem(const Case& c, Device& device);

  std::unique_ptr<Matrix> x, weight, down, up, bias, base, dy, s;  // operands; s is an operand where it was saved
  std::unique_ptr<Matrix> y, ds, dx, ddown, dup, dense;            // results; dense: scratch of the unfused paths
  std::unique_ptr<Matrix> seed;                                    // one int64 (its bits in a float64)

  double scale = 0.75;
  Dropout dropout() const;
  MatrixView bias_view() const { return bias ? MatrixView(bias->view()) : MatrixView{}; }

  /// The operation through the backend's own kernels, in as few calls as they allow.
  Status run_fused() const;
  /// The dense part and the low-rank part as calls of their own (linear and its gradient).
  Status run_unfused() const;
  bool has_unfused() const { return c.operation == Operation::kLinear || c.operation == Operation::kBackward; }

  Status project(const MatrixView& rows, const MatrixView& factor, double factor_scale, const Dropout& drop,
                 const MutableMatrixView& to) const;

  /// What each result must be. `kDenseOnly`: without the low-rank term; `kChained`: parts are rounded before they are
  /// added.
  enum class Path { kFused, kChained, kDenseOnly };
  std::vector<Result> results(Path path) const;

  /// unfused          dense product, project, expand onto it: the same backend, a call each
  /// cublaslt_dense   only the dense product: what the layer costs without its low-rank term
  /// cublaslt_chain   every product by cuBLASLt, the last ones accumulating
  /// library_path     cuBLASLt for the dense product, lrkernels for the rest: what the torch op does by default
  std::vector<Contender> contenders(CublasLt* library, std::vector<std::string>* notes) const override;
  std::string library_plan() const override;
};

}  // namespace lrk::bench
