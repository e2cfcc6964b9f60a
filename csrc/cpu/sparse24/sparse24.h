// The CPU's implementations, a function an operation; T is what is computed in, float or double.
#pragma once

#include "lrk/sparse24.h"

namespace lrk::cpu {

template <class T>
Status sparse24_mask(const Sparse24MaskArgs& args, const Context& context);

Status sparse24_compress(const Sparse24CompressArgs& args, const Context& context);
Status sparse24_decompress(const Sparse24DecompressArgs& args, const Context& context);
size_t sparse24_packed_bytes(int64_t out, int64_t in, DType dtype, bool transposable);
Status sparse24_pack(const Sparse24PackArgs& args, const Context& context);

/// Rows [row, row + rows) and columns [col, col + cols) as a dense matrix; col a multiple of eight, cols of four.
void sparse24_expand(const Sparse24Matrix& weight, int64_t row, int64_t rows, int64_t col, int64_t cols, void* dense,
                     const Context& context);

/// Whether a packing serves better than expanding.
bool sparse24_uses_panels(const Sparse24LinearArgs& args);
size_t sparse24_panels_workspace(const Sparse24LinearArgs& args);
Status sparse24_linear_panels(const Sparse24LinearArgs& args, const Context& context);

size_t sparse24_expanded_workspace(const Sparse24LinearArgs& args);
Status sparse24_linear_expanded(const Sparse24LinearArgs& args, const Context& context);

size_t sparse24_values_grad_workspace(const Sparse24ValuesGradArgs& args);
Status sparse24_values_grad(const Sparse24ValuesGradArgs& args, const Context& context);

}  // namespace lrk::cpu
