// Host side of the QR decomposition of tall matrices: its launches and where their intermediates lie.
#pragma once

#include "cuda/sketch/tall_product_launch.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// Of `count` matrices [rows, cols], cols <= rows. Passes of Gram matrix, triangle and substitution, three launches each
/// (deferred_cholesky.cuh); those after the one that made a matrix orthonormal end at once, which is known on the device
/// alone. What they leave unfinished gram_schmidt.cuh finishes.
class ColumnQr {
 public:
  static constexpr int kMostPasses = 6, kFewPasses = 3;

  /// The triangle, where `triangle_cols` > 0, is that of Q^T times as many columns.
  ColumnQr(const char* operation, int64_t count, int64_t rows, int64_t cols, int64_t triangle_cols,
           const Context& context);
  void reserve(Workspace& workspace);
  /// Why these matrices cannot be decomposed; ok when they can.
  Status check() const;
  /// q becomes an orthonormal basis of a's columns, completed where they are dependent; NaN of what is not finite. `q`
  /// may be `a`.
  ///
  /// `passes` is how many are launched, besides the end. Two are the rule. Float32's numbers hold eight digits, of which
  /// a pass resolves five; columns that depend on others take one more to be known as such, and random ones two to take
  /// their places. Of columns that are nearly orthonormal or zero kFewPasses do as much.
  Status orthonormalize(const Workspace& workspace, const ConstStack& a, const MutableStack& q,
                        int passes = kMostPasses) const;
  /// q becomes a basis of its own columns as one between two products need be, in two passes: orthonormal to rounding
  /// where they are independent to five digits, and else as well conditioned as numbers of eight digits allow.
  Status normalize(const Workspace& workspace, const MutableStack& q) const;
  /// r [cols, triangle_cols] = the upper triangle of QT a.
  Status triangle(const Workspace& workspace, const ConstStack& q, const ConstStack& a, const MutableStack& r) const;

 private:
  Status run_passes(const Workspace& workspace, const ConstStack& a, const MutableStack& q, int passes) const;

  const char* operation_;
  int64_t count_, rows_, cols_, triangle_cols_;
  const Context& context_;
  TallProduct gram_, onto_basis_;
  size_t sums_ = 0, triangles_ = 0, per_unit_ = 0, replaced_ = 0, finished_ = 0;
};

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
