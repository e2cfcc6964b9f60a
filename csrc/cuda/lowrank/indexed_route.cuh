// Rows sorted by adapter on the device: a stable counting sort, without atomics, so that the same index gives the same
// order, and without the host, which learns neither the segments nor their number of tiles: it launches as many blocks
// as there could be tiles at most, rows / tile_rows + segments, and those without rows end at once.
//
// Bytes: the index twice, four numbers a row, and a counter for every segment and warp; small beside the products.
// Idea: a warp counts a run of rows, 32 at a time: __match_any_sync finds the rows that share a segment, and the first
// of them adds their number to the warp's own counters. Sums of the counters over warps, then over segments, say where
// every warp's first row of every segment goes; a second pass over the rows places them. Up to 2048 rows the three
// phases are one block's, in one launch.
#pragma once

#include "lrk/context.h"
#include "lrk/lowrank_indexed.h"
#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace lowrank {

/// Rows of one tile: 16 where most tiles would hold fewer anyway (decoding, or a few rows an adapter). By shape alone.
inline int64_t indexed_tile_rows(int64_t rows, int64_t adapters) {
  return rows <= 64 || rows <= 16 * adapters ? 16 : 64;
}

inline int64_t indexed_tiles_bound(int64_t rows, int64_t adapters) {
  const int64_t segments = adapters + 2;
  return rows / indexed_tile_rows(rows, adapters) + (segments < rows ? segments : rows);
}

Status run_route(const RouteArgs& args, const Context& context, Routing& routing);

}  // namespace lowrank
}  // namespace LRK_TARGET
}  // namespace lrk
