#include "cpu/lowrank/indexed_route.h"

#include "cpu/lowrank/indexed.h"

namespace lrk::cpu {
namespace {

template <class Index>
int32_t segment_of(Index index, int64_t adapters) {
  return int32_t(index == -1 ? adapters : index < 0 || index >= adapters ? adapters + 1 : index);
}

template <class Index>
void sort_rows(const Index* index, const RouteArgs& args, int32_t* offsets, int32_t* order) {
  int32_t* const next = offsets + 1;  // while rows are placed, where each segment's next one goes
  std::fill(offsets, offsets + args.adapters + 3, 0);
  for (int64_t row = 0; row < args.rows; ++row)
    if (const int32_t segment = segment_of(index[row], args.adapters); segment <= args.adapters) ++next[segment + 1];
  for (int64_t segment = 1; segment <= args.adapters + 1; ++segment) next[segment] += next[segment - 1];
  for (int64_t row = 0; row < args.rows; ++row) order[next[segment_of(index[row], args.adapters)]++] = int32_t(row);
}

}  // namespace

Status indexed_route(const RouteArgs& args, const Context& context, Routing& routing) {
  const int64_t segments = args.adapters + 2, tile_rows = indexed_tile_rows(args.rows);
  const int64_t bound = args.rows / tile_rows + std::min(segments, args.rows);
  const size_t bytes = Workspace::padded(size_t(args.rows) * 4) + Workspace::padded(size_t(segments + 1) * 4) +
                       Workspace::padded(size_t(args.adapters) * 4) + Workspace::padded(size_t(bound) * sizeof(RowTile));
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_linear_indexed", bytes);
  int32_t* const order = workspace.take<int32_t>(args.rows);
  int32_t* const offsets = workspace.take<int32_t>(segments + 1);
  int32_t* const ranks = workspace.take<int32_t>(args.adapters);
  RowTile* const tiles = workspace.take<RowTile>(bound);

  if (args.index_is_int64)
    sort_rows(static_cast<const int64_t*>(args.index), args, offsets, order);
  else
    sort_rows(static_cast<const int32_t*>(args.index), args, offsets, order);
  for (int64_t i = 0; i < args.adapters; ++i)
    ranks[i] = int32_t(args.ranks == nullptr ? args.rank : std::clamp<int64_t>(args.ranks[i], 0, args.rank));

  // Tiles of one segment are about equal.
  int64_t used = 0;
  for (int64_t segment = 0; segment < segments; ++segment) {
    const int32_t end = offsets[segment + 1], rank = segment < args.adapters ? ranks[segment] : 0;
    const int32_t part = int32_t(balanced_part(end - offsets[segment], tile_rows));
    for (int32_t first = offsets[segment]; first < end; first += part)
      tiles[used++] = {int32_t(segment), first, std::min(part, end - first), rank};
  }
  routing.rows = args.rows, routing.adapters = args.adapters, routing.rank = args.rank;
  routing.order = order, routing.offsets = offsets, routing.ranks = ranks;
  routing.tiles = tiles, routing.tile_rows = tile_rows, routing.tiles_bound = used;
  return {};
}

}  // namespace lrk::cpu
