// The indexed products' backend table: compiled by nvcc it is the GPU, compiled with LRK_EMULATE the emulated device.
#include "cuda/lowrank/indexed_heuristics.cuh"
#include "cuda/lowrank/indexed_route.cuh"
#include "cuda/lowrank/indexed_run.cuh"

namespace lrk {
namespace {

const IndexedBackend kBackend = {
#if defined(LRK_EMULATE)
    "cuda_emulated",
#else
    "cuda",
#endif
    &lowrank::run_route,
    &lowrank::run_indexed_project,
    &lowrank::run_indexed_linear,
    &lowrank::run_indexed_grad,
    &lowrank::plan_indexed_project,
    &lowrank::plan_indexed_linear,
    &lowrank::plan_indexed_grad,
    &lowrank::indexed_dense_apart,
    &lowrank::indexed_kernel_names,
};

}  // namespace

#if defined(LRK_EMULATE)
const IndexedBackend* lowrank_indexed_cuda_emulated() { return &kBackend; }
#else
const IndexedBackend* lowrank_indexed_cuda() { return &kBackend; }
#endif

}  // namespace lrk
