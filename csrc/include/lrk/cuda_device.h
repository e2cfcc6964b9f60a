// Whether the compiled CUDA kernels can run on a device of this machine.
#pragma once

#include <string>

namespace lrk {

/// Why they cannot ("no kernel image is available ...", "CUDA driver version is insufficient ..."); empty when they can.
/// The driver is asked once a device: the answer does not change while the process lives.
std::string cuda_device_problem(int device);

}  // namespace lrk
