// The small part of a product of Householder reflections H = I - 2 vTv / |v|^2 of row vectors v, torch-free: unit rows.
//
// With U the unit rows of k vectors (WY; Bischof and Van Loan 1987, in the form of Joffrain et al. 2006):
//   x H_1 H_2 ... H_k = x - (x UT) S U,  S = (I/2 + triu(U UT, 1))^-1,
// whose products are low-rank ones (lrk/lowrank.h) and whose S is an inverse of lrk/square.h. In the order H_k ... H_1 S
// is transposed. The entries of S are bounded by 4, for S_ij = -4 u_i H_{i+1} ... H_{j-1} u_jT.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lrk/context.h"
#include "lrk/plan.h"
#include "lrk/types.h"

namespace lrk {

/// units_i = v_i / |v_i|, and 0 of v_i = 0 and from the last vector on. Rows are divided by their largest entry first, so
/// squares neither overflow nor vanish: |v_i| = lengths(i, 0) lengths(i, 1), the largest entry and the norm of the rest.
struct UnitRowsArgs {
  MatrixView vectors;               // [count, features], any strides
  MutableMatrixView units;          // [>= count, features], float32, or float64 for float64 vectors
  MutableMatrixView lengths;        // [count, 2], units' dtype
  int64_t* used_columns = nullptr;  // [count][2] begin and end of the columns outside of which v_i is zero; optional on
                                    // the CPU, and never written by a device, whose results the host does not wait for
};

/// dv_i = (du - (du u_iT) u_i) / |v_i| with du = first_i + second_i; 0 of v_i = 0.
struct UnitRowsBackwardArgs {
  MatrixView units, lengths;   // as unit_rows wrote them
  MatrixView first, second;    // [>= count, features], units' dtype
  MutableMatrixView dvectors;  // [count, features], any dtype and strides
};

/// The most rows of a panel.
constexpr int64_t kMostPanelRows = 128;

/// S of every panel, in double: (triu(U UT, 1) + diag(U UT) / 2)^-1, with 1/2 for a row of zeros. The diagonal is that of
/// the rows there are, which are unit ones only to rounding.
struct PanelInverseArgs {
  MatrixView units;            // [panels rows, features] as unit_rows wrote them, rows contiguous
  MutableMatrixView inverses;  // S, [panels rows, rows] with at most kMostPanelRows of them; units' dtype, contiguous
};

struct HouseholderBackend {
  const char* name;  // "cpu", "cuda", "cuda_emulated"
  Plan (*plan_unit_rows)(const UnitRowsArgs&, const Context&);
  Status (*unit_rows)(const UnitRowsArgs&, const Context&);
  Plan (*plan_unit_rows_backward)(const UnitRowsBackwardArgs&, const Context&);
  Status (*unit_rows_backward)(const UnitRowsBackwardArgs&, const Context&);
  std::vector<std::string> (*kernel_names)();
  /// nullptr where products in double and an inverse of lrk/square.h make S: on the CPU, whose library multiplies doubles.
  Plan (*plan_panel_inverses)(const PanelInverseArgs&, const Context&) = nullptr;
  Status (*panel_inverses)(const PanelInverseArgs&, const Context&) = nullptr;
};

const HouseholderBackend& householder_cpu();
/// nullptr when the library was built without it.
const HouseholderBackend* householder_cuda();
const HouseholderBackend* householder_cuda_emulated();

}  // namespace lrk
