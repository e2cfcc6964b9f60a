#include "cuda/lowrank/linear_mma_launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

template Status launch_linear_mma<BFloat16>(LinearTile, bool, const LinearMmaParameters&, const Context&);

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
