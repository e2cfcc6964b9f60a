// The algorithms of lrk/sketch.h in one of the two dtypes.
#pragma once

#include "lrk/sketch.h"

namespace lrk::cpu {

template <class T>
Status orthonormalize_matrix(const OrthonormalizeArgs& args, const Context& context);
template <class T>
Status find_range(const RangeFinderArgs& args, const Context& context);
template <class T>
Status randomized_svd(const RsvdArgs& args, const Context& context);
template <class T>
Status polar_factor(const PolarArgs& args, const Context& context);
Status norm_bound(const SpectralNormBoundArgs& args, const Context& context);

}  // namespace lrk::cpu
