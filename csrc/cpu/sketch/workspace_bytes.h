// What the algorithms of this family ask of the allocator, for plans: of matrices whose columns are independent, as
// those of nearly all are, and beside what their products take.
#pragma once

#include "lrk/sketch.h"
#include "lrk/sketch_batched.h"

namespace lrk::cpu {

template <class T>
size_t workspace_bytes(const OrthonormalizeArgs& args);
template <class T>
size_t workspace_bytes(const RangeFinderArgs& args);
template <class T>
size_t workspace_bytes(const RsvdArgs& args);
template <class T>
size_t workspace_bytes(const PolarArgs& args);
size_t workspace_bytes(const SpectralNormBoundArgs& args);
/// Of newton_schulz_stack.
size_t workspace_bytes(const BatchedPolarArgs& args);

}  // namespace lrk::cpu
