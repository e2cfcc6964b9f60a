// What explain(), trace(), force() and testing.backend() of the Python package switch on.
#pragma once

#include "lrk/lowrank.h"
#include "torch/bridge.h"

namespace lrk::binding {

/// While planning, ops record the plan of every kernel they would run and run none.
bool planning();
void add_plan(const char* primitive, const Plan& plan);

/// LRK_REFERENCE=1: the plain-torch twins serve every op, so the kernels are not registered.
bool reference_only();

/// True while CPU tensors are sent to the emulated CUDA kernels (tests only).
bool emulating();

/// The table that serves `on`'s device, of a family's three.
template <class Backend>
const Backend& backend_for(const char* op, const Tensor& on, const Backend& cpu, const Backend* cuda,
                           const Backend* cuda_emulated) {
  if (!on.is_cuda()) return emulating() ? *cuda_emulated : cpu;
  if (cuda == nullptr) fail(op, "this build of lrkernels has no CUDA kernels");
  return *cuda;
}

/// Runs a kernel, or records its plan while planning.
template <class Args>
void run(const char* op, const char* primitive, Plan (*plan)(const Args&, const Context&),
         Status (*kernel)(const Args&, const Context&), const Args& args, const Context& context) {
  if (planning()) {
    add_plan(primitive, plan(args, context));
  } else {
    require(kernel(args, context), op);
  }
}

}  // namespace lrk::binding
