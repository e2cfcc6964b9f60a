// The family's backend table: compiled by nvcc it is the GPU, compiled with LRK_EMULATE the emulated device.
#include "cuda/lowrank/launchers.cuh"

namespace lrk {
namespace {

const LowRankBackend kBackend = {
#if defined(LRK_EMULATE)
    "cuda_emulated",
#else
    "cuda",
#endif
    &lowrank::plan_project, &lowrank::plan_linear, &lowrank::plan_factor_grad,
    &lowrank::run_project,  &lowrank::run_linear,  &lowrank::run_factor_grad,
    // A product with one small side is memory's: the kernels read and write it once, as a library would.
    [](const ProjectArgs&, const Context&) { return false; },
    &lowrank::library_linear,
    [](const FactorGradArgs&, const Context&) { return false; },
    &lowrank::kernel_names,
};

}  // namespace

#if defined(LRK_EMULATE)
const LowRankBackend* lowrank_cuda_emulated() { return &kBackend; }
#else
const LowRankBackend* lowrank_cuda() { return &kBackend; }
#endif

}  // namespace lrk
