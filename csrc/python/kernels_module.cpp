// lrkernels._kernels: what the build contains, Philox, and the primitives of every backend on NumPy arrays, without
// torch. For inspection and for kernel tests; the torch ops never use it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "device/philox.h"
#include "lrk/build_info.h"
#include "lrk/cuda_device.h"
#include "python/lowrank_module.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  const lrk::BuildInfo info = lrk::build_info();
  py::dict result;
  result["version"] = info.version;
  result["compiler"] = info.compiler;
  result["cuda"] = info.cuda;
  result["emulator"] = info.emulator;
  result["emulator_checked"] = info.emulator_checked;
  result["cuda_toolkit"] = info.cuda_toolkit;
  result["cuda_archs"] = info.cuda_archs;
  result["cuda_reason"] = info.cuda_reason;
  return result;
}

py::array_t<uint32_t> philox(int64_t seed, int64_t count) {
  if (count < 0) throw py::value_error("philox: count is negative");
  py::array_t<uint32_t> bits(count);
  auto out = bits.mutable_unchecked<1>();
  for (int64_t i = 0; i < count; ++i) out(i) = lrk::philox_element(uint64_t(seed), uint64_t(i));
  return bits;
}

}  // namespace

PYBIND11_MODULE(_kernels, m) {
  m.doc() = "Torch-free access to the kernels of lrkernels, for inspection and kernel tests.";
  m.def("build_info", &build_info, "Version, compiler, compiled architectures, and why CUDA is or is not there.");
  m.def("cpu_features", &lrk::cpu_features, "Instruction sets of this CPU among those the kernels ask about.");
  m.def("cpu_isa", &lrk::cpu_isa, "What the CPU kernels use here: avx512, avx2 or portable.");
  m.def("cuda_device_problem", &lrk::cuda_device_problem, py::arg("device"),
        "Why the CUDA kernels cannot run on this device; empty when they can.");
  m.def("philox", &philox, py::arg("seed"), py::arg("count"),
        "32 random bits for each element index below count: Philox4x32-10 keyed by seed.");
  lrk::python::add_lowrank(m);
}
