#include "cuda/lowrank/split_mma_launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

template Status launch_project_mma<Float16>(SplitTile, bool, const SplitMmaParameters<ProjectOutput>&, const Context&);
template Status launch_factor_grad_mma<Float16>(SplitTile, const SplitMmaParameters<FactorGradOutput>&,
                                                const Context&);

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
