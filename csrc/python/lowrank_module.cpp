#include "python/lowrank_module.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "lrk/lowrank.h"

namespace py = pybind11;

namespace lrk::python {
namespace {

// float32, float64 and float16 arrays are what they say; NumPy has no bfloat16, so uint16 arrays carry its bits.
DType dtype_of(const py::array& array) {
  if (py::isinstance<py::array_t<float>>(array)) return DType::kFloat32;
  if (py::isinstance<py::array_t<double>>(array)) return DType::kFloat64;
  if (py::isinstance<py::array_t<uint16_t>>(array)) return DType::kBFloat16;
  if (array.dtype().kind() == 'f' && array.itemsize() == 2) return DType::kFloat16;
  throw py::type_error("expected a float32, float64, float16 or uint16 (bfloat16 bits) array");
}

MatrixView view_of(const py::array& array) {
  if (array.ndim() != 2) throw py::value_error("expected a 2-D array");
  const auto size = array.itemsize();
  if (array.strides(0) % size != 0 || array.strides(1) % size != 0) {
    throw py::value_error("expected strides that are multiples of the item size");
  }
  return {array.data(), dtype_of(array), array.shape(0), array.shape(1), array.strides(0) / size, array.strides(1) / size};
}

MatrixView view_of(const std::optional<py::array>& array) { return array ? view_of(*array) : MatrixView{}; }

py::array empty_like(const py::array& like, int64_t rows, int64_t cols) {
  return py::array(like.dtype(), std::vector<py::ssize_t>{rows, cols});
}

MutableMatrixView mutable_view_of(py::array& array) {
  const MatrixView view = view_of(static_cast<const py::array&>(array));
  return {array.mutable_data(), view.dtype, view.rows, view.cols, view.row_stride, view.col_stride};
}

const LowRankBackend& backend_named(const std::string& name) {
  const LowRankBackend* backend = nullptr;
  if (name == "cpu") backend = &lowrank_cpu();
  if (name == "cuda_emulated") backend = lowrank_cuda_emulated();
  if (backend == nullptr) throw py::value_error("backend '" + name + "' is not in this build; NumPy arrays run on cpu or cuda_emulated");
  return *backend;
}

/// Serial threads and heap work memory for one call.
struct Host {
  std::vector<std::unique_ptr<std::byte[]>> blocks;
  Context context;

  Host() {
    context.parallel_for = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) { body(0, tasks); };
    context.allocate = [this](size_t bytes) -> void* {
      blocks.push_back(std::make_unique<std::byte[]>(bytes + 256));
      const auto address = reinterpret_cast<uintptr_t>(blocks.back().get());
      return reinterpret_cast<void*>((address + 255) / 256 * 256);
    };
  }
};

void require(const Status& status) {
  if (!status.ok()) throw py::value_error(status.message);
}

py::array project(const py::array& x, const py::array& down, double scale, double dropout, int64_t seed,
                  const std::string& backend) {
  ProjectArgs args;
  args.x = view_of(x), args.down = view_of(down), args.scale = scale, args.dropout = {dropout, &seed};
  if (args.x.cols != args.down.cols) throw py::value_error("project: x and down have different numbers of columns");
  py::array s = empty_like(x, args.x.rows, args.down.rows);
  args.s = mutable_view_of(s);
  Host host;
  require(backend_named(backend).project(args, host.context));
  return s;
}

py::array linear(const py::array& s, const py::array& up, const std::optional<py::array>& x,
                 const std::optional<py::array>& weight, const std::optional<py::array>& base, double scale,
                 const std::string& backend) {
  LinearArgs args;
  args.s = view_of(s), args.up = view_of(up), args.scale = scale;
  args.x = view_of(x), args.weight = view_of(weight), args.base = view_of(base);
  if (args.s.cols != args.up.cols) throw py::value_error("linear: s and up have different ranks");
  if (args.x.present() != args.weight.present()) throw py::value_error("linear: x and weight go together");
  if (args.x.present() && (args.x.cols != args.weight.cols || args.x.rows != args.s.rows || args.weight.rows != args.up.rows)) {
    throw py::value_error("linear: x, weight, s and up do not fit together");
  }
  if (args.base.present() && (args.base.rows != args.s.rows || args.base.cols != args.up.rows)) {
    throw py::value_error("linear: base does not fit s and up");
  }
  for (const MatrixView& view : {args.x, args.weight, args.base}) {
    if (view.present() && view.dtype != args.s.dtype) throw py::type_error("linear: x, weight and base must have s's dtype");
  }
  py::array y = empty_like(s, args.s.rows, args.up.rows);
  args.y = mutable_view_of(y);
  Host host;
  require(backend_named(backend).linear(args, host.context));
  return y;
}

py::array factor_grad(const py::array& s, const py::array& x, double scale, double dropout, int64_t seed,
                      const std::string& backend) {
  FactorGradArgs args;
  args.s = view_of(s), args.x = view_of(x), args.scale = scale, args.dropout = {dropout, &seed};
  if (args.s.rows != args.x.rows) throw py::value_error("factor_grad: s and x have different numbers of rows");
  py::array grad = empty_like(x, args.s.cols, args.x.cols);
  args.grad = mutable_view_of(grad);
  Host host;
  require(backend_named(backend).factor_grad(args, host.context));
  return grad;
}

}  // namespace

void add_lowrank(py::module_& m) {
  m.def("lowrank_project", &project, py::arg("x"), py::arg("down"), py::kw_only(), py::arg("scale") = 1.0,
        py::arg("dropout") = 0.0, py::arg("seed") = 0, py::arg("backend") = "cpu", "scale * drop(x) downT");
  m.def("lowrank_linear", &linear, py::arg("s"), py::arg("up"), py::arg("x") = py::none(),
        py::arg("weight") = py::none(), py::arg("base") = py::none(), py::kw_only(), py::arg("scale") = 1.0,
        py::arg("backend") = "cpu", "x weightT + base + scale * s upT");
  m.def("lowrank_factor_grad", &factor_grad, py::arg("s"), py::arg("x"), py::kw_only(), py::arg("scale") = 1.0,
        py::arg("dropout") = 0.0, py::arg("seed") = 0, py::arg("backend") = "cpu", "scale * sT drop(x)");
}

}  // namespace lrk::python
