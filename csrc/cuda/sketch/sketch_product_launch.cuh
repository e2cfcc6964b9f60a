// Launches of sketch_product.cuh, which is compiled once.
#pragma once

#include "device/workspace.cuh"
#include "lrk/sketch_batched.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

/// y_n = x_n Omega, or x_n OmegaT of the adjoint, of a stack, in one launch or, of long sums, two. `args` describes the
/// first matrices; where y lies is said when it runs. x is multiplied by `x_scale` before it is added.
class SignProduct {
 public:
  SignProduct(const char* operation, const SketchProductArgs& args, int64_t count, int64_t x_stride, int64_t y_stride,
              double x_scale, const Context& context);
  void reserve(Workspace& workspace);
  /// Why these operands cannot be multiplied; ok when they can.
  Status check() const;
  const char* kernel() const;
  Status run(const Workspace& workspace, void* y) const;

 private:
  bool is_sparse() const { return args_.kind == SketchKind::kSparseSign; }

  const char* operation_;
  SketchProductArgs args_;
  int64_t x_stride_, y_stride_;
  double x_scale_;
  const Context& context_;
  /// How the work is cut, by shape and device alone: tiles of columns and of rows, parts of the sums and their length.
  int64_t rows_, inner_, outer_, tiles_, row_tiles_, parts_ = 1, length_;
  size_t partials_ = 0;
};

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
