// The family's primitives and their plans.
#pragma once

#include "device/target.cuh"
#include "lrk/orthogonal.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace orthogonal {

Plan plan_givens(const GivensArgs& args, const Context& context);
Status run_givens(const GivensArgs& args, const Context& context);
Plan plan_givens_backward(const GivensBackwardArgs& args, const Context& context);
Status run_givens_backward(const GivensBackwardArgs& args, const Context& context);
std::vector<std::string> kernel_names();

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
