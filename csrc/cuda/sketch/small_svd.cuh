// Host side of the singular value decomposition of small square matrices.
#pragma once

#include "cuda/sketch/column_qr.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// r = y diag(values) wT of `count` matrices [size, size], truncated to `rank`: values descend, and y and w [size, rank]
/// have orthonormal columns whatever the rank of r is.
class SmallSvd {
 public:
  SmallSvd(const char* operation, int64_t count, int64_t size, int64_t rank, const Context& context);
  void reserve(Workspace& workspace);
  Status check() const;
  Status run(const Workspace& workspace, const ConstStack& r, float* values) const;
  /// Contiguous float32 results in the workspace.
  MutableMatrices w(const Workspace& workspace) const { return at(workspace, 0); }
  MutableMatrices y(const Workspace& workspace) const { return at(workspace, count_); }

 private:
  MutableMatrices at(const Workspace& workspace, int64_t first) const;

  int64_t count_, size_, rank_;
  const Context& context_;
  bool in_shared_;
  ColumnQr completion_;  // of w and y, one stack
  size_t rows_ = 0, vectors_ = 0;
};

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
