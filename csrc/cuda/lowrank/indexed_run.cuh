// The indexed products on a device: the functions of its backend table.
#pragma once

#include "device/target.cuh"
#include "lrk/lowrank_indexed.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

Status run_indexed_project(const IndexedProjectArgs& args, const Routing& routing, const Context& context);
Status run_indexed_linear(const IndexedLinearArgs& args, const Routing& routing, const Context& context);
Status run_indexed_grad(const IndexedFactorGradArgs& args, const Routing& routing, const Context& context);
Plan plan_indexed_project(const IndexedProjectArgs& args, const RouteArgs& route, const Context& context);
Plan plan_indexed_linear(const IndexedLinearArgs& args, const RouteArgs& route, const Context& context);
Plan plan_indexed_grad(const IndexedFactorGradArgs& args, const RouteArgs& route, const Context& context);
bool indexed_dense_apart(const IndexedLinearArgs& args, const Context& context);

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
