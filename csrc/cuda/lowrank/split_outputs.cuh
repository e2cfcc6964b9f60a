// What follows the sums of project and factor_grad, in float and rounded once.
#pragma once

#include "device/element_view.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// s = scale * gate . p; p itself is stored too when it is wanted (the gate's gradient needs it).
struct ProjectOutput {
  MutableElementView s, projected;  // [rows, rank]; projected may be absent
  ElementView gate;                 // [rows, rank]; may be absent
  float scale = 1.0f, dropout_scale = 1.0f;

  __device__ __forceinline__ void write(int row, int col, float sum) const {
    const float p = sum * dropout_scale;
    if (projected.data != nullptr) projected.store(row, col, p);
    const float gated = gate.data != nullptr ? p * gate.load(row, col) : p;
    s.store(row, col, gated * scale);
  }
};

/// grad = scale * the sum.
struct FactorGradOutput {
  MutableElementView grad;  // [rank, cols]
  float scale = 1.0f;       // includes dropout's 1 / (1 - probability)

  __device__ __forceinline__ void write(int rank, int col, float sum) const { grad.store(rank, col, sum * scale); }
};

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
