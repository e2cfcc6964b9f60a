// Host side of the QR decomposition of tall matrices: its launches and where their intermediates lie.
#pragma once

#include "cuda/sketch/tall_product_launch.cuh"
#include "device/workspace.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// Of `count` matrices [rows, cols], cols <= rows. Passes of Gram matrix, triangle and substitution
/// (deferred_cholesky.cuh); those after the one that made a matrix orthonormal end at once, which is known on the device
/// alone.
class ColumnQr {
 public:
  /// The triangle, where `triangle_cols` > 0, is that of Q^T times as many columns.
  ColumnQr(const char* operation, int64_t count, int64_t rows, int64_t cols, int64_t triangle_cols,
           const Context& context);
  void reserve(Workspace& workspace);
  /// Why these matrices cannot be decomposed; ok when they can.
  Status check() const;
  /// q becomes an orthonormal basis of a's columns, completed where they are dependent; NaN of what is not finite. `q`
  /// may be `a`.
  Status orthonormalize(const Workspace& workspace, const ConstStack& a, const MutableStack& q) const;
  /// r [cols, triangle_cols] = the upper triangle of QT a.
  Status triangle(const Workspace& workspace, const ConstStack& q, const ConstStack& a, const MutableStack& r) const;

 private:
  const char* operation_;
  int64_t count_, rows_, cols_, triangle_cols_;
  const Context& context_;
  TallProduct gram_, onto_basis_;
  size_t sums_ = 0, triangles_ = 0, per_unit_ = 0, replaced_ = 0, finished_ = 0;
};

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
