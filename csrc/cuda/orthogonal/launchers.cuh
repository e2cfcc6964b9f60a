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
Plan plan_cayley(const CayleyArgs& args, const Context& context);
Status run_cayley(const CayleyArgs& args, const Context& context);
Plan plan_cayley_backward(const CayleyBackwardArgs& args, const Context& context);
Status run_cayley_backward(const CayleyBackwardArgs& args, const Context& context);
Plan plan_block_diagonal(const BlockDiagonalArgs& args, const Context& context);
Status run_block_diagonal(const BlockDiagonalArgs& args, const Context& context);
Plan plan_block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context);
Status run_block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context);

}  // namespace orthogonal
}  // namespace LRK_TARGET
}  // namespace lrk
