// cuBLASLt, opened when a run wants it: the benchmark neither needs it to build nor to start.
#pragma once

#include <memory>
#include <string>

#include "device.h"

namespace lrk::bench {

class CublasLt {
 public:
  virtual ~CublasLt() = default;
  virtual std::string version() const = 0;

  /// to = scale * left rightT (+ to). left [rows, inner], right [cols, inner], each contiguous along one dimension; `to`
  /// row-major; one dtype; sums in float. The first call for a shape times the library's candidates and keeps the best.
  virtual Status gemm(const MatrixView& left, const MatrixView& right, double scale, bool add,
                      const MutableMatrixView& to) = 0;
};

/// nullptr and a reason where the library is not found. LRK_CUBLASLT names the file when it is in an unusual place.
std::unique_ptr<CublasLt> open_cublaslt(Device& device, std::string* reason);

}  // namespace lrk::bench
