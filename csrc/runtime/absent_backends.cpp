// The backends this build does without answer nullptr, so that callers need no preprocessor.
#include "lrk/build_info.h"
#include "lrk/cuda_device.h"
#include "lrk/householder.h"
#include "lrk/lowrank.h"
#include "lrk/lowrank_indexed.h"
#include "lrk/orthogonal.h"
#include "lrk/sketch_batched.h"
#include "lrk/sparse24.h"
#include "lrk/square.h"

namespace lrk {

// Of this family there are no CUDA kernels yet.
const Sparse24Backend* sparse24_cuda() { return nullptr; }
const Sparse24Backend* sparse24_cuda_emulated() { return nullptr; }

#if !LRK_HAVE_CUDA
const LowRankBackend* lowrank_cuda() { return nullptr; }
const IndexedBackend* lowrank_indexed_cuda() { return nullptr; }
const OrthogonalBackend* orthogonal_cuda() { return nullptr; }
const HouseholderBackend* householder_cuda() { return nullptr; }
const BatchedSketchBackend* sketch_cuda() { return nullptr; }
const SquareBackend* square_cuda() { return nullptr; }
std::string cuda_device_problem(int) { return build_info().cuda_reason; }
#endif
#if !LRK_HAVE_EMULATOR
const LowRankBackend* lowrank_cuda_emulated() { return nullptr; }
const IndexedBackend* lowrank_indexed_cuda_emulated() { return nullptr; }
const OrthogonalBackend* orthogonal_cuda_emulated() { return nullptr; }
const HouseholderBackend* householder_cuda_emulated() { return nullptr; }
const BatchedSketchBackend* sketch_cuda_emulated() { return nullptr; }
const SquareBackend* square_cuda_emulated() { return nullptr; }
#endif

}  // namespace lrk
