// The sketching matrices of python/lrkernels/reference/sketch.py, which says which word of Philox makes which entry.
#pragma once

#include "device/sparse_sign.h"
#include "lrk/sketch.h"

namespace lrk::cpu {

template <class T>
void fill_sketch_matrix(const SketchMatrixArgs& args, const Context& context);

}  // namespace lrk::cpu
