#include "device/target.cuh"
#include "lrk/lowrank_indexed.h"

namespace lrk {
#if defined(LRK_EMULATE)
const IndexedBackend* lowrank_indexed_cuda_emulated() { return nullptr; }
#else
const IndexedBackend* lowrank_indexed_cuda() { return nullptr; }
#endif
}  // namespace lrk
