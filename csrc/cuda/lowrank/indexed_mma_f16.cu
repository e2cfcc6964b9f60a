#include "cuda/lowrank/indexed_mma_launch.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

template Status launch_indexed_project<Float16>(IndexedTile, bool, int64_t, const IndexedProjectMmaParameters&,
                                                  const Context&);
template Status launch_indexed_linear<Float16>(IndexedTile, bool, const IndexedLinearMmaParameters&, const Context&);
template Status launch_indexed_grad<Float16>(IndexedTile, const IndexedGradMmaParameters&, const Context&);

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
