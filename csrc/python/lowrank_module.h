#pragma once

#include <pybind11/pybind11.h>

namespace lrk::python {

/// Adds project, linear and factor_grad on NumPy arrays.
void add_lowrank(pybind11::module_& m);

}  // namespace lrk::python
