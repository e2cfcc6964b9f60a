// The kernels' launchers, one translation unit per dtype, so that they compile side by side.
#pragma once

#include "cuda/lowrank/heuristics.cuh"
#include "cuda/lowrank/linear_mma.cuh"
#include "cuda/lowrank/linear_simt.cuh"
#include "cuda/lowrank/split_mma.cuh"
#include "cuda/lowrank/split_outputs.cuh"
#include "cuda/lowrank/split_simt.cuh"
#include "device/launch.cuh"
#include "lrk/lowrank.h"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// T is BFloat16 or Float16. `across`: weight and up are contiguous along `out`.
template <class T>
Status launch_linear_mma(LinearTile tile, bool across, const LinearMmaParameters& parameters, const Context& context);
Status launch_linear_simt(LinearTile tile, const LinearSimtParameters& parameters, const Context& context);

/// `factor_across`: the factor is contiguous along the rank, a transposed view.
template <class T>
Status launch_project_mma(SplitTile tile, bool factor_across, const SplitMmaParameters<ProjectOutput>& parameters,
                          const Context& context);
template <class T>
Status launch_factor_grad_mma(SplitTile tile, const SplitMmaParameters<FactorGradOutput>& parameters,
                              const Context& context);
Status launch_split_simt(SplitTile tile, const SplitSimtParameters<ProjectOutput>& parameters, const Context& context);
Status launch_split_simt(SplitTile tile, const SplitSimtParameters<FactorGradOutput>& parameters,
                         const Context& context);

/// The three primitives and their plans (linear.cu, project.cu, factor_grad.cu).
Plan plan_linear(const LinearArgs& args, const Context& context);
Status run_linear(const LinearArgs& args, const Context& context);
bool library_linear(const LinearArgs& args, const Context& context);
Plan plan_project(const ProjectArgs& args, const Context& context);
Status run_project(const ProjectArgs& args, const Context& context);
Plan plan_factor_grad(const FactorGradArgs& args, const Context& context);
Status run_factor_grad(const FactorGradArgs& args, const Context& context);

inline int64_t tiles_of(int64_t extent, int tile) { return (extent + tile - 1) / tile; }

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
