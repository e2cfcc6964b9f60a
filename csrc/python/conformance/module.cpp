// lrkernels._conformance: the conformance kernels (csrc/device/conformance) on NumPy arrays. Only development builds
// have this module; tests/device uses it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "device/conformance/conformance.h"

namespace py = pybind11;

namespace {

const lrk::ConformanceTarget& target_named(const std::string& backend) {
  if (backend == "cuda_emulated") return lrk::conformance_cuda_emulated();
#if LRK_HAVE_CUDA
  if (backend == "cuda") return lrk::conformance_cuda();
#endif
  throw py::value_error("run: backend '" + backend + "' is not in this build");
}

py::dict cases(const std::string& backend) {
  py::dict result;
  for (const lrk::ConformanceCase& listed : target_named(backend).cases())
    result[py::str(listed.name)] = py::make_tuple(listed.input_bytes, listed.output_bytes);
  return result;
}

py::array_t<uint8_t> run(const std::string& name, const std::vector<py::array>& inputs, const std::string& backend) {
  const lrk::ConformanceTarget& target = target_named(backend);
  for (const lrk::ConformanceCase& listed : target.cases()) {
    if (listed.name != name) continue;
    if (inputs.size() != listed.input_bytes.size())
      throw py::value_error("run: " + name + " takes " + std::to_string(listed.input_bytes.size()) + " inputs");
    const size_t trials = inputs.empty() ? 1 : size_t(inputs[0].nbytes()) / listed.input_bytes[0];
    std::vector<py::array> held;
    std::vector<const void*> pointers;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (size_t(inputs[i].nbytes()) != trials * listed.input_bytes[i])
        throw py::value_error("run: input " + std::to_string(i) + " of " + name + " has " +
                              std::to_string(inputs[i].nbytes()) + " bytes, expected " + std::to_string(trials) +
                              " times " + std::to_string(listed.input_bytes[i]));
      held.push_back(py::array::ensure(inputs[i], py::array::c_style));
      pointers.push_back(held.back().data());
    }
    py::array_t<uint8_t> output({trials, listed.output_bytes});
    const lrk::Status status = target.run(name, trials, pointers, output.mutable_data());
    if (!status.ok()) throw std::runtime_error(name + ": " + status.message);
    return output;
  }
  throw py::value_error("run: no case is named '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_conformance, m) {
  m.doc() = "One small kernel for every PTX wrapper, on the emulator and on a GPU; development builds only.";
  m.def("cases", &cases, py::arg("backend") = "cuda_emulated",
        "{name: (bytes of each input, bytes of the output)} of one trial.");
  m.def("run", &run, py::arg("name"), py::arg("inputs"), py::arg("backend"),
        "The output bytes [trials, output bytes] of a case; every input holds its trials one after the other.");
}
