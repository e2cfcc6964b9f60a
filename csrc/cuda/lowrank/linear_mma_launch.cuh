// Every configuration of linear_mma.cuh for one dtype.
#pragma once

#include "cuda/lowrank/launchers.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

template <class Product>
Status start_linear_mma(const LinearMmaParameters& parameters, const Context& context) {
  const int64_t blocks =
      tiles_of(parameters.output.rows, Product::kTileM) * tiles_of(parameters.output.out, Product::kTileN);
  if (Status status = check_grid("lowrank_linear", blocks); !status.ok()) return status;
  return launch(linear_mma_kernel<Product>,
                LaunchConfig(dim3(unsigned(blocks)), dim3(Product::kThreads), Product::kSharedBytes, context),
                parameters);
}

template <class T, Major kMajorB>
Status launch_linear_tile(LinearTile tile, const LinearMmaParameters& parameters, const Context& context) {
  constexpr Major kAlong = Major::kAlongSum;
  switch (tile) {
    case LinearTile::k128x128x32:
      return start_linear_mma<TileProduct<T, 128, 128, 32, 2, 2, 4, kAlong, kMajorB>>(parameters, context);
    case LinearTile::k64x64x32:
      return start_linear_mma<TileProduct<T, 64, 64, 32, 2, 2, 4, kAlong, kMajorB>>(parameters, context);
    case LinearTile::k16x64x64:
      return start_linear_mma<TileProduct<T, 16, 64, 64, 1, 4, 4, kAlong, kMajorB>>(parameters, context);
    case LinearTile::kNarrow64x64x32:
      return start_linear_mma<TileProduct<T, 64, 64, 32, 2, 2, 4, kAlong, kMajorB, false>>(parameters, context);
    default:
      return Status::unsupported("lowrank_linear: this tile is for float32");
  }
}

template <class T>
Status launch_linear_mma(LinearTile tile, bool across, const LinearMmaParameters& parameters, const Context& context) {
  return across ? launch_linear_tile<T, Major::kAcrossSum>(tile, parameters, context)
                : launch_linear_tile<T, Major::kAlongSum>(tile, parameters, context);
}

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
