// The algorithms of lrk/sketch.h in one of the two dtypes.
#pragma once

#include "lrk/sketch.h"
#include "lrk/sketch_batched.h"

namespace lrk::cpu {

template <class T>
Status orthonormalize_matrix(const OrthonormalizeArgs& args, const Context& context);
template <class T>
Status find_range(const RangeFinderArgs& args, const Context& context);
template <class T>
Status randomized_svd(const RsvdArgs& args, const Context& context);
template <class T>
Status polar_factor(const PolarArgs& args, const Context& context);
/// x [rows, cols] divided by its Frobenius norm, by its largest entry first; 0 stays.
template <class T>
void scale_to_norm_one(T* x, int64_t rows, int64_t cols, int64_t stride);
/// In how many pieces polar_factor does that to a matrix of so many entries.
int64_t norm_pieces(int64_t count);

/// Whether a core's cache holds one of so many matrices with its work memory, and they keep all cores busy.
bool newton_schulz_in_stack(int64_t count, int64_t rows, int64_t cols, DType dtype);
Status newton_schulz_stack(const BatchedPolarArgs& args, const Context& context);

Status norm_bound(const SpectralNormBoundArgs& args, const Context& context);

}  // namespace lrk::cpu
