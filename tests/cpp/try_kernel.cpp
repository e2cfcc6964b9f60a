// A kernel to start from. `make try` compiles this file for the emulator's checked mode and runs it; `make try
// KERNEL=path/of/a/copy.cpp` does so with a copy. Exit status 0: no report, and the right numbers.
#include <cstdio>
#include <vector>

#include "device/global_memory.cuh"
#include "device/launch.cuh"
#include "device/smem.cuh"

namespace lrk {
namespace {

/// Turns each block's part of x around.
__global__ void reverse(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  const unsigned first = blockIdx.x * blockDim.x;
  shared[threadIdx.x] = x[first + threadIdx.x];
  __syncthreads();  // leave it out, and a thread reads what nobody has written
  y[first + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

int run() {
  constexpr unsigned kBlocks = 3, kThreads = 64;
  std::vector<float> x(kBlocks * kThreads), y(x.size(), -1.0f);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i);
  const size_t bytes = x.size() * sizeof(float);
  GlobalMemory memory;
  memory.reads(x.data(), bytes, "x").writes(y.data(), bytes, "y");
  const LaunchConfig config(dim3(kBlocks), dim3(kThreads), kThreads * sizeof(float), Context{});
  const Status status = launch(reverse, config, static_cast<const float*>(x.data()), y.data());
  if (!status.ok()) {
    std::printf("%s\n", status.message.c_str());
    return 1;
  }
  size_t wrong = 0;
  for (size_t i = 0; i < x.size(); ++i) wrong += y[i] != x[i / kThreads * kThreads + kThreads - 1 - i % kThreads];
  std::printf("no report, %zu wrong numbers\n", wrong);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lrk

int main() { return lrk::run(); }
