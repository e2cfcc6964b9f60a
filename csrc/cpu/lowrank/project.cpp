// s = scale * gate . (drop(x) downT), and p = drop(x) downT beside it when wanted.
//
// Work: rows * in * rank multiply-adds; bytes: x once. Both operands run along `in`, so nothing is packed: with many
// rows x is streamed in its own dtype against widened rows of down; with few rows the roles are exchanged and down is
// streamed. From rank 32 on packing x costs less than it gains. Only dropout or a strided x need a staged block of x.
#include <algorithm>

#include "cpu/gemm/block.h"
#include "cpu/lowrank/kernels.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTaskRows = 32;
constexpr int64_t kRankGroup = 128;   // columns of s a task keeps sums for
constexpr int64_t kDepthChunk = 512;  // a tile's rows of both operands stay in the first level cache
constexpr int64_t kFewRows = 16;
constexpr int64_t kPackedRank = 32, kManyRows = 128;
constexpr int64_t kPackedGroup = 256;  // columns of s a packed task keeps sums for
constexpr int64_t kPackedRows = 56;
constexpr int64_t kPackedDepth = 256;

template <class T>
constexpr DType kBlockDType = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;

template <class T>
bool usable_in_place(const MatrixView& view) {
  return view.col_stride == 1 && size_of(view.dtype) == sizeof(T);
}

bool streams_down(const ProjectArgs& args) { return args.x.rows <= kFewRows && args.down.col_stride == 1; }

/// gate and scale, then one rounding, for sums of rows [row, row + rows) and rank columns [col, col + cols).
template <class T>
void finish_block(const Kernels<T>& kernels, const ProjectArgs& args, T* sums, int64_t stride, int64_t row,
                  int64_t rows, int64_t col, int64_t cols) {
  if (args.projected.present())
    kernels.finish(sums, stride, rows, cols, nullptr, nullptr, destination_at(args.projected, row, col));
  const T scale = T(args.scale);
  for (int64_t i = 0; i < rows; ++i) {
    T* const to = sums + i * stride;
    if (args.gate.present()) {
      alignas(64) T gate[kPackedGroup];
      kernels.stage(gate, cols, source_at(args.gate, row + i, col), 1, cols, cols);
      for (int64_t j = 0; j < cols; ++j) to[j] *= scale * gate[j];
    } else {
      scale_block(to, cols, scale);
    }
  }
  kernels.finish(sums, stride, rows, cols, nullptr, nullptr, destination_at(args.s, row, col));
}

template <class T>
Status project_few_rows(const ProjectArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t rows = args.x.rows, inner = args.x.cols, rank = args.down.rows;
  const size_t bytes = project_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_project", bytes);
  const T* x = static_cast<const T*>(args.x.data);
  int64_t x_stride = args.x.row_stride;
  if (args.dropout.active() || !usable_in_place<T>(args.x)) {
    T* const staged = workspace.take<T>(rows * inner);
    kernels.stage(staged, inner, source_at(args.x, 0, 0), rows, inner, inner);
    if (args.dropout.active()) kernels.drop(staged, inner, rows, inner, 0, uint64_t(inner), resolve(args.dropout));
    x = staged, x_stride = inner;
  }
  constexpr int64_t kTaskRanks = 4;
  run_tasks(context, ceil_div(rank, kTaskRanks), rows * inner * rank, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t col = task * kTaskRanks, cols = std::min(kTaskRanks, rank - col);
      T sums[kFewRows * kTaskRanks] = {};
      dot_block(kernels, source_at(args.down, col, 0), cols, x, x_stride, rows, inner, sums, 1, kTaskRanks, false);
      finish_block(kernels, args, sums, kTaskRanks, 0, rows, col, cols);
    }
  });
  return {};
}

template <class T>
Status project_many_rows(const ProjectArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t rows = args.x.rows, inner = args.x.cols, rank = args.down.rows;
  const size_t bytes = project_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_project", bytes);
  const T* down = static_cast<const T*>(args.down.data);
  int64_t down_stride = args.down.row_stride;
  if (!usable_in_place<T>(args.down)) {
    T* const staged = workspace.take<T>(rank * inner);
    run_tasks(context, ceil_div(inner, kDepthChunk), rank * inner * 4, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t k = task * kDepthChunk, length = std::min(kDepthChunk, inner - k);
        kernels.stage(staged + k, inner, source_at(args.down, 0, k), rank, length, length);
      }
    });
    down = staged, down_stride = inner;
  }
  const bool staged_x = args.dropout.active() || args.x.col_stride != 1;
  const DropoutMask mask = args.dropout.active() ? resolve(args.dropout) : DropoutMask{};

  const auto task_body = [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
    alignas(64) T sums[kTaskRows * kRankGroup];
    std::fill(sums, sums + count * cols, T(0));
    for (int64_t k = 0; k < inner; k += kDepthChunk) {
      const int64_t length = std::min(kDepthChunk, inner - k);
      alignas(64) T block[kTaskRows * kDepthChunk];
      Source x = source_at(args.x, row, k);
      if (staged_x) {
        kernels.stage(block, kDepthChunk, x, count, length, length);
        if (args.dropout.active())
          kernels.drop(block, kDepthChunk, count, length, uint64_t(row) * uint64_t(inner) + uint64_t(k),
                       uint64_t(inner), mask);
        x = {block, kBlockDType<T>, kDepthChunk, 1};
      }
      dot_block(kernels, x, count, down + col * down_stride + k, down_stride, cols, length, sums, cols, 1, true);
    }
    finish_block(kernels, args, sums, cols, row, count, col, cols);
  };
  run_tasks(context, ceil_div(rows, kTaskRows), rows * inner * rank, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task * kTaskRows, count = std::min(kTaskRows, rows - row);
      for (int64_t col = 0; col < rank; col += kRankGroup)
        task_body(row, count, col, std::min(kRankGroup, rank - col));
    }
  });
  return {};
}

/// Panels of down are packed once; a task packs its rows of x chunk by chunk, in its second level cache.
template <class T>
Status project_packed(const ProjectArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const int64_t rows = args.x.rows, inner = args.x.cols, rank = args.down.rows, width = kernels.tile_cols;
  const size_t bytes = project_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("lowrank_project", bytes);
  const int64_t panels = ceil_div(rank, width);
  T* const down = workspace.take<T>(panels * width * inner);
  run_tasks(context, panels, panels * width * inner * 4, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel)
      kernels.stage(down + panel * width * inner, width, source_at(args.down.transposed(), 0, panel * width), inner,
                    std::min(width, rank - panel * width), width);
  });

  const auto task_body = [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
    alignas(64) T sums[kPackedRows * kPackedGroup];
    // Whole panels may reach past the rows by less than one row a panel.
    alignas(64) T packed[(kPackedRows + kPackedRows / 4) * kPackedDepth];
    const int64_t height = balanced_part(count, kernels.tile_rows);
    if (inner == 0) std::fill(sums, sums + count * kPackedGroup, T(0));
    for (int64_t k = 0; k < inner; k += kPackedDepth) {
      const int64_t depth = std::min(kPackedDepth, inner - k);
      for (int64_t i = 0; i < count; i += height)
        kernels.stage(packed + i * depth, height, source_at(args.x.transposed(), k, row + i), depth,
                      std::min(height, count - i), height);
      multiply_block(kernels, {packed, depth * height, height}, count,
                     {down + col * inner + k * width, inner * width, width}, cols, depth, sums, kPackedGroup, k > 0);
    }
    finish_block(kernels, args, sums, kPackedGroup, row, count, col, cols);
  };
  run_tasks(context, ceil_div(rows, kPackedRows), rows * inner * rank, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task * kPackedRows, count = std::min(kPackedRows, rows - row);
      for (int64_t col = 0; col < rank; col += kPackedGroup)
        task_body(row, count, col, std::min(kPackedGroup, rank - col));
    }
  });
  return {};
}

}  // namespace

bool project_is_packed(const ProjectArgs& args) {
  return args.down.rows >= kPackedRank && args.x.rows >= kManyRows && !args.dropout.active();
}

template <class T>
Status project(const ProjectArgs& args, const Context& context) {
  if (project_is_packed(args)) return project_packed<T>(args, context);
  return streams_down(args) ? project_few_rows<T>(args, context) : project_many_rows<T>(args, context);
}

template <class T>
size_t project_workspace(const ProjectArgs& args) {
  if (project_is_packed(args)) {
    const int64_t width = selected_kernels<T>().tile_cols;
    return Workspace::padded(size_t(ceil_div(args.down.rows, width) * width * args.down.cols) * sizeof(T));
  }
  if (streams_down(args)) {
    const bool in_place = !args.dropout.active() && usable_in_place<T>(args.x);
    return in_place ? 0 : Workspace::padded(size_t(args.x.rows * args.x.cols) * sizeof(T));
  }
  return usable_in_place<T>(args.down) ? 0 : Workspace::padded(size_t(args.down.rows * args.down.cols) * sizeof(T));
}

template Status project<float>(const ProjectArgs&, const Context&);
template Status project<double>(const ProjectArgs&, const Context&);
template size_t project_workspace<float>(const ProjectArgs&);
template size_t project_workspace<double>(const ProjectArgs&);

}  // namespace lrk::cpu
