// The family's primitives and their plans.
#pragma once

#include "device/target.cuh"
#include "lrk/sketch_batched.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace sketch {

Plan plan_sketch_product(const SketchProductArgs& args, const Context& context);
Status run_sketch_product(const SketchProductArgs& args, const Context& context);
Plan plan_orthonormalize(const BatchedOrthonormalizeArgs& args, const Context& context);
Status run_orthonormalize(const BatchedOrthonormalizeArgs& args, const Context& context);
Plan plan_range_finder(const BatchedRangeFinderArgs& args, const Context& context);
Status run_range_finder(const BatchedRangeFinderArgs& args, const Context& context);
Plan plan_rsvd(const BatchedRsvdArgs& args, const Context& context);
Status run_rsvd(const BatchedRsvdArgs& args, const Context& context);
Plan plan_exact_polar(const BatchedPolarArgs& args, const Context& context);
Status run_exact_polar(const BatchedPolarArgs& args, const Context& context);
Plan plan_polar(const BatchedPolarArgs& args, const Context& context);
Status run_polar(const BatchedPolarArgs& args, const Context& context);
Plan plan_spectral_norm_bound(const BatchedNormBoundArgs& args, const Context& context);
Status run_spectral_norm_bound(const BatchedNormBoundArgs& args, const Context& context);

}  // namespace sketch
}  // namespace LRK_TARGET
}  // namespace lrk
