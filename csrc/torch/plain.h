// An op's plain torch expression, for the dtypes its device has no kernel for: lrk::_plain_<op>, same schema as the op,
// defined in Python (ops/_registration.py).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <torch/csrc/stable/library.h>

namespace lrk::binding {

/// Whether the kernels of the device that serves `tensor` take its dtype: those for CUDA have no float64.
bool has_kernels_for(AtenTensorHandle tensor);

/// Calls lrk::_plain_<op> in the op's place. `stack` holds the arguments, and the results afterwards.
void call_plain(const char* op, StableIValue* stack);

/// A string as a template argument.
template <size_t size>
struct FixedString {
  char text[size];
  constexpr FixedString(const char (&literal)[size]) { std::copy_n(literal, size, text); }
};

/// What is registered for an op: `kernel` (of TORCH_BOX), or the plain expression where the first argument's dtype has
/// no kernel.
template <auto kernel, FixedString op>
void kernel_or_plain(StableIValue* stack, uint64_t arguments, uint64_t results) {
  if (has_kernels_for(torch::stable::detail::to<AtenTensorHandle>(stack[0]))) return kernel(stack, arguments, results);
  call_plain(op.text, stack);
}

}  // namespace lrk::binding
