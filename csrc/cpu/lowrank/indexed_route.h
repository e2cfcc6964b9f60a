// Rows sorted by adapter on the CPU: a stable counting sort, and tiles that tasks take.
#pragma once

#include "lrk/lowrank_indexed.h"

namespace lrk::cpu {

Status indexed_route(const RouteArgs& args, const Context& context, Routing& routing);

}  // namespace lrk::cpu
