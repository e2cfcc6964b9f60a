// 2:4 sparse matrices, torch-free: of every four consecutive entries of a row exactly two are kept.
//
// The portable format of W [out, in], in a multiple of four:
//   values  [out, in / 2]       the kept entries of a row, in order
//   bitmask [out, ceil(in / 8)] bit i of byte j says whether entry 8 j + i is kept; spare bits of a row are zero
// 9/16 of the bytes of a dense 16-bit matrix. A packing holds the same numbers in the order in which one device's
// kernel reads them, and can be made again at any time.
//
// Three products make every op and every gradient: `linear` (y = x WT + scale s upT + bias), the same with W transposed
// (dx = dy W + scale ds down), and `values_grad` (dyT x where W is kept).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {

enum class Sparse24Mask : int8_t {
  kRows,          // the two largest magnitudes of four; of equal ones the first
  kTransposable,  // two of every row and column of a 4 x 4 tile, the largest sum there is
  kGreedy,        // of a tile the largest entries in turn, where row and column have room; may keep fewer than eight
  kDoublePruned,  // kRows, and of what is left the two largest of four in a column; may keep fewer than two
};

/// Magnitudes are compared in float32, or float64, and what is not finite counts as larger than all that is.
/// Transposable sums are (two of a row + two of the next) + (the same below) of magnitudes times 2^-8, so that none
/// overflows; of equal ones the first in lexicographic order of the upper half's column counts, then of its pairs, then
/// of the lower half's.
struct Sparse24MaskArgs {
  MatrixView weight;  // [out, in], any strides; in, and unless kRows out, multiples of four
  Sparse24Mask kind = Sparse24Mask::kRows;
  uint8_t* mask = nullptr;  // [out, in], 0 or 1, contiguous
};

/// `malformed` becomes the first group (row * in / 4 + group) of which not exactly two are kept, or -1. Nothing else is
/// written then.
struct Sparse24CompressArgs {
  MatrixView weight;              // [out, in], any strides
  const uint8_t* mask = nullptr;  // [out, in], 0 or 1, contiguous
  MutableMatrixView values;       // [out, in / 2], weight's dtype, contiguous
  uint8_t* bitmask = nullptr;     // contiguous
  int64_t* malformed = nullptr;   // in the memory of the device
};

struct Sparse24Matrix {
  MatrixView values;                 // [out, in / 2], rows contiguous
  const uint8_t* bitmask = nullptr;  // contiguous
  int64_t out() const { return values.rows; }
  int64_t in() const { return 2 * values.cols; }
  int64_t mask_stride() const { return (in() + 7) / 8; }
};

/// `malformed` as above, or the row and group of spare bits that are set; `dense` may be absent, to check alone.
struct Sparse24DecompressArgs {
  Sparse24Matrix weight;
  MutableMatrixView dense;       // [out, in], values' dtype, contiguous
  int64_t* malformed = nullptr;
};

/// A packing of a well-formed matrix.
struct Sparse24PackArgs {
  Sparse24Matrix weight;
  bool transposable = false;  // W's tiles keep two of every column too, and the packing serves both products
  void* packed = nullptr;     // sparse24_packed_bytes of the backend
};

/// out = a b by the caller's library, matrices of one dtype and any strides; where there is none, by ours.
using Sparse24Product = std::function<Status(const MatrixView& a, const MatrixView& b, const MutableMatrixView& out)>;

/// y = x WT + scale s upT + bias, or with `transposed` y = x W + scale s upT + bias. Malformed bitmasks give wrong
/// numbers and touch no memory but the operands'.
struct Sparse24LinearArgs {
  MatrixView x;                  // [rows, in], or [rows, out] transposed; any strides
  Sparse24Matrix weight;         // x's dtype
  const void* packed = nullptr;  // absent: the portable format serves alone
  bool transposable = false;     // as `packed` was made
  bool transposed = false;
  MatrixView s;                  // [rows, rank], x's dtype or wider; absent: no low-rank term
  MatrixView up;                 // [columns of y, rank], any strides
  MatrixView bias;               // [1, columns of y]; absent: 0
  double scale = 1.0;
  Sparse24Product product;
  MutableMatrixView y;           // contiguous, x's dtype
};

/// dvalues(n, p) = sum over rows of dy(., n) x(., column of value p).
struct Sparse24ValuesGradArgs {
  MatrixView grad, x;             // [rows, out], [rows, in], one dtype, any strides
  const uint8_t* bitmask = nullptr;
  Sparse24Product product;
  MutableMatrixView dvalues;      // [out, in / 2], grad's dtype, contiguous
};

struct Sparse24Backend {
  const char* name;  // "cpu", "cuda", "cuda_emulated"
  Plan (*plan_mask)(const Sparse24MaskArgs&, const Context&);
  Status (*mask)(const Sparse24MaskArgs&, const Context&);
  Plan (*plan_compress)(const Sparse24CompressArgs&, const Context&);
  Status (*compress)(const Sparse24CompressArgs&, const Context&);
  Plan (*plan_decompress)(const Sparse24DecompressArgs&, const Context&);
  Status (*decompress)(const Sparse24DecompressArgs&, const Context&);
  /// Bytes of a packing; 0 where the kernels read the portable format.
  size_t (*packed_bytes)(int64_t out, int64_t in, DType dtype, bool transposable);
  Plan (*plan_pack)(const Sparse24PackArgs&, const Context&);
  Status (*pack)(const Sparse24PackArgs&, const Context&);
  Plan (*plan_linear)(const Sparse24LinearArgs&, const Context&);
  Status (*linear)(const Sparse24LinearArgs&, const Context&);
  Plan (*plan_values_grad)(const Sparse24ValuesGradArgs&, const Context&);
  Status (*values_grad)(const Sparse24ValuesGradArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
};

const Sparse24Backend& sparse24_cpu();
/// nullptr when the library was built without it.
const Sparse24Backend* sparse24_cuda();
const Sparse24Backend* sparse24_cuda_emulated();

}  // namespace lrk
