#include "cuda/lowrank/pack.cuh"

#include <algorithm>

#include "device/launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {
namespace {

constexpr int kPackThreads = 256;

// The parameter is a grid constant so that picking a job does not copy all of them to local memory.
__global__ void __launch_bounds__(kPackThreads) pack_kernel(const __grid_constant__ PackParameters parameters) {
  const PackJob& job = parameters.job[blockIdx.y];
  const int64_t count = int64_t(job.lines) * job.stride, step = int64_t(gridDim.x) * kPackThreads;
  for (int64_t i = int64_t(blockIdx.x) * kPackThreads + threadIdx.x; i < count; i += step) {
    const int line = int(i / job.stride), element = int(i % job.stride);
    store_element(job.target, parameters.dtype, i, element < job.length ? job.source.load(line, element) : 0.0f);
  }
}

}  // namespace

Status launch_pack(const PackParameters& parameters, int jobs, const Context& context) {
  int64_t elements = 0;
  for (int i = 0; i < jobs; ++i)
    elements = std::max(elements, int64_t(parameters.job[i].lines) * parameters.job[i].stride);
  const int64_t blocks = std::min<int64_t>((elements + kPackThreads - 1) / kPackThreads, 4096);
  return launch(pack_kernel, LaunchConfig(dim3(unsigned(blocks), unsigned(jobs)), dim3(kPackThreads), 0, context),
                parameters);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
