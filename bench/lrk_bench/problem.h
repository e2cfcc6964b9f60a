// The operations that can be measured: their operands, the calls that compute them, what they must cost.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lrk/lowrank.h"
#include "matrix.h"
#include "verify.h"

namespace lrk::bench {

enum class Operation { kLinear, kProject, kExpand, kFactorGrad, kBackward };

struct OperationInfo {
  Operation operation;
  const char* name;
  const char* equation;
};
const std::vector<OperationInfo>& operations();

/// x is [m, k], weight [n, k], down [rank, k], up [n, rank].
struct Case {
  Operation operation = Operation::kLinear;
  std::string label;  // "q, o" of a preset; empty otherwise
  int64_t m = 512, n = 1024, k = 1024, rank = 16;
  DType dtype = DType::kFloat32;
  DType factor_dtype = DType::kFloat32;  // down, up and bias
  double dropout = 0;
  bool bias = false;
};

std::string name_of(const Case& c);

/// Without what the operation does not have: a bias or dropout.
Case relevant(Case c);

/// The arithmetic, and the bytes that must move when everything is read and written once.
double flops(const Case& c);
double compulsory_bytes(const Case& c);

/// One case's operands on a device. Members an operation does not use are null.
struct Problem {
  Problem(const Case& c, Device& device);

  Case c;
  Device& device;
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
};

}  // namespace lrk::bench
