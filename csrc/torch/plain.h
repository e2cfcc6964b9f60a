// An op's plain torch expression, for what the CUDA kernels do not serve: float64, and devices that have no code of ours.
// lrk::_plain_<op>, same schema as the op, is defined in Python (ops/_registration.py).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include <torch/csrc/stable/library.h>

namespace lrk::binding {

/// Why no kernel serves `tensor`'s dtype on its device; empty when one does.
std::string why_no_kernels(AtenTensorHandle tensor);

/// Calls lrk::_plain_<op> in the op's place. `stack` holds the arguments, and the results afterwards.
void call_plain(const char* op, const std::string& why, StableIValue* stack);

/// A string as a template argument.
template <size_t size>
struct FixedString {
  char text[size];
  constexpr FixedString(const char (&literal)[size]) { std::copy_n(literal, size, text); }
};

/// What is registered for an op: `kernel` (of TORCH_BOX), or the plain expression where the first argument has none.
template <auto kernel, FixedString op>
void kernel_or_plain(StableIValue* stack, uint64_t arguments, uint64_t results) {
  const std::string why = why_no_kernels(torch::stable::detail::to<AtenTensorHandle>(stack[0]));
  if (why.empty()) return kernel(stack, arguments, results);
  call_plain(op.text, why, stack);
}

}  // namespace lrk::binding
