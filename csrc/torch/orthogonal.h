// What the ops of the orthogonal family share.
#pragma once

#include "lrk/orthogonal.h"
#include "torch/inspection.h"

namespace lrk::binding {

/// The table that serves `on`'s device.
inline const OrthogonalBackend& orthogonal_for(const char* op, const Tensor& on) {
  return backend_for(op, on, orthogonal_cpu(), orthogonal_cuda(), orthogonal_cuda_emulated());
}

}  // namespace lrk::binding
