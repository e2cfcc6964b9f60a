// The family's backend table: compiled by nvcc it is the GPU, compiled with LRK_EMULATE the emulated device.
#include "cuda/sketch/launchers.cuh"

namespace lrk {
namespace {

std::vector<std::string> kernel_names() {
  return {"sketch_rademacher_sm80_32x64", "sketch_rademacher_sm80_adjoint_32x64", "sketch_sparse_sign_sm80_scatter",
          "sketch_sparse_sign_sm80_gather", "orthonormalize_sm80_cholesky_qr",
          "range_finder_sm80", "rsvd_sm80_jacobi", "polar_exact_sm80_jacobi", "newton_schulz_sm80_shared",
          "newton_schulz_sm80_products", "spectral_norm_bound_sm80_shared", "spectral_norm_bound_sm80_products"};
}

const BatchedSketchBackend kBackend = {
#if defined(LRK_EMULATE)
    "cuda_emulated",
#else
    "cuda",
#endif
    &sketch::plan_sketch_product,
    &sketch::run_sketch_product,
    &sketch::plan_orthonormalize,
    &sketch::run_orthonormalize,
    &sketch::plan_range_finder,
    &sketch::run_range_finder,
    &sketch::plan_rsvd,
    &sketch::run_rsvd,
    &sketch::plan_polar,
    &sketch::run_polar,
    &sketch::plan_spectral_norm_bound,
    &sketch::run_spectral_norm_bound,
    &kernel_names,
};

}  // namespace

#if defined(LRK_EMULATE)
const BatchedSketchBackend* sketch_cuda_emulated() { return &kBackend; }
#else
const BatchedSketchBackend* sketch_cuda() { return &kBackend; }
#endif

}  // namespace lrk
