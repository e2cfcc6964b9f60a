// Host side of the range finder (Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4): products by the caller's
// library, a basis after each of them. A basis between two products need be well conditioned, no more, which takes two
// passes of a QR; the last one is orthonormal to rounding.
//
// Launches of ours, of a basis and s power steps: the start 1 (2 where its sums are long), 6 for each of the 2 s bases
// between products, 19 for the last: 32 of one power step.
#pragma once

#include "cuda/sketch/column_qr.cuh"
#include "cuda/sketch/sketch_product_launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// Of args.a, whatever args.q is.
class RangeFinder {
 public:
  RangeFinder(const char* operation, const BatchedRangeFinderArgs& args, int64_t size, const Context& context);
  void reserve(Workspace& workspace);
  Status check() const;
  /// q [rows, size], contiguous.
  Status run(const Workspace& workspace, const MutableMatrices& q) const;
  /// AT q in the workspace of the steps, which are over.
  Status project(const Workspace& workspace, const Matrices& q, MutableMatrices& out) const;

 private:
  /// The first columns of A Omega, as many as there are behind those of a basis of before, of short columns so that no sum
  /// of large numbers overflows. Omega has `size` columns.
  Status start(const Workspace& workspace, const MutableMatrices& out) const;
  SketchProductArgs start_args() const;
  int64_t gaussian_blocks() const;

  const char* operation_;
  const BatchedRangeFinderArgs& args_;
  const Context& context_;
  int64_t count_, rows_, cols_, size_, warm_;
  bool gaussian_start_;
  ColumnQr of_rows_, of_cols_, of_warm_;
  SignProduct signs_;
  size_t other_ = 0, gaussian_ = 0;
};

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
