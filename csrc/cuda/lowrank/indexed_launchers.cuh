// The launchers of the indexed products, one translation unit per dtype.
#pragma once

#include "cuda/lowrank/indexed_heuristics.cuh"
#include "cuda/lowrank/indexed_mma.cuh"
#include "cuda/lowrank/indexed_simt.cuh"
#include "lrk/context.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// T is BFloat16 or Float16. `across`: the factors lie across the sum, a transposed view. `tiles`: of rows.
template <class T>
Status launch_indexed_project(IndexedTile tile, bool across, int64_t tiles,
                              const IndexedProjectMmaParameters& parameters, const Context& context);
template <class T>
Status launch_indexed_linear(IndexedTile tile, bool across, const IndexedLinearMmaParameters& parameters,
                             const Context& context);
template <class T>
Status launch_indexed_grad(IndexedTile tile, const IndexedGradMmaParameters& parameters, const Context& context);

Status launch_indexed_project(IndexedTile tile, int64_t tiles, const IndexedProjectSimtParameters& parameters,
                              const Context& context);
Status launch_indexed_linear(int64_t tiles, const IndexedLinearSimtParameters& parameters, const Context& context);
Status launch_indexed_grad(IndexedTile tile, const IndexedGradSimtParameters& parameters, const Context& context);

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
