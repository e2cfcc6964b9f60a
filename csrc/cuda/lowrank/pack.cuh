// Copies a small factor into the form the tensor-core kernels read: 16-bit, contiguous lines, 16-byte aligned, zeros up
// to a multiple of eight. Bytes: the factor read and written once; a thread an element, both factors in one launch.
#pragma once

#include "device/element_view.cuh"
#include "lrk/context.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

struct PackJob {
  ElementView source;      // [lines, length], any strides
  void* target = nullptr;  // [lines, stride]
  int lines = 0, length = 0, stride = 0;
};

struct PackParameters {
  PackJob job[2];
  DType dtype = DType::kBFloat16;
};

/// Runs the first `jobs` jobs.
Status launch_pack(const PackParameters& parameters, int jobs, const Context& context);

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
