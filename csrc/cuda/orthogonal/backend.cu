// The family's backend table: compiled by nvcc it is the GPU, compiled with LRK_EMULATE the emulated device.
#include "cuda/orthogonal/launchers.cuh"

namespace lrk {
namespace {

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const char* direction : {"givens_", "givens_backward_"})
    for (const char* kind : {"sm80_tile", "sm80_passes"}) names.push_back(std::string(direction) + kind);
  for (const char* place : {"shared", "global"}) names.push_back(std::string("cayley_inverse_sm80_") + place);
  for (const char* name : {"cayley_neumann_sm80", "cayley_backward_sm80", "cayley_neumann_backward_sm80"})
    names.push_back(name);
  for (const char* direction : {"block_diagonal_", "block_diagonal_backward_"})
    for (const char* kind : {"sm80_mma", "sm80_simt"}) names.push_back(std::string(direction) + kind);
  return names;
}

const OrthogonalBackend kBackend = {
#if defined(LRK_EMULATE)
    "cuda_emulated",
#else
    "cuda",
#endif
    &orthogonal::plan_givens,
    &orthogonal::run_givens,
    &orthogonal::plan_givens_backward,
    &orthogonal::run_givens_backward,
    &orthogonal::plan_cayley,
    &orthogonal::run_cayley,
    &orthogonal::plan_cayley_backward,
    &orthogonal::run_cayley_backward,
    &orthogonal::plan_block_diagonal,
    &orthogonal::run_block_diagonal,
    &orthogonal::plan_block_diagonal_backward,
    &orthogonal::run_block_diagonal_backward,
    &kernel_names,
};

}  // namespace

#if defined(LRK_EMULATE)
const OrthogonalBackend* orthogonal_cuda_emulated() { return &kBackend; }
#else
const OrthogonalBackend* orthogonal_cuda() { return &kBackend; }
#endif

}  // namespace lrk
