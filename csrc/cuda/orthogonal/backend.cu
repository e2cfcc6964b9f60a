// The family's backend table: compiled by nvcc it is the GPU, compiled with LRK_EMULATE the emulated device.
#include "cuda/orthogonal/launchers.cuh"

namespace lrk {
namespace {

const OrthogonalBackend kBackend = {
#if defined(LRK_EMULATE)
    "cuda_emulated",
#else
    "cuda",
#endif
    &orthogonal::plan_givens, &orthogonal::run_givens, &orthogonal::plan_givens_backward,
    &orthogonal::run_givens_backward, &orthogonal::kernel_names,
};

}  // namespace

#if defined(LRK_EMULATE)
const OrthogonalBackend* orthogonal_cuda_emulated() { return &kBackend; }
#else
const OrthogonalBackend* orthogonal_cuda() { return &kBackend; }
#endif

}  // namespace lrk
