// y_n = x_n R_n for every block n of features, and its gradients.
//
// Work: block multiply-adds an element (gradients: twice that); bytes: x and y once (x, g and dx). Up to blocks of about
// 32 that is memory's. So as few rows as keep the multiply-adds busy are staged as floats, a page of each at a time,
// which are streams that the hardware follows; they are multiplied in registers and written once. The matrices of a
// task's columns stay in the second level cache beside them, packed unless they are right as they are. The gradient of
// the matrices is summed beside dx, from the same reading of x and g.
//
// Tasks are ranges of blocks times ranges of rows. Each range of rows has sums of its own, which are added in order; the
// ranges depend on the shape alone.
#include <algorithm>
#include <vector>

#include "cpu/gemm/block.h"
#include "cpu/orthogonal/block_diagonal.h"
#include "cpu/orthogonal/block_diagonal_kernels.h"
#include "runtime/cpu_features.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kRowsWanted = 14;          // of a tile, rounded up to whole tiles of the kernel
constexpr int64_t kGradientTiles = 2;        // tiles of rows at once where sums over rows are taken too
constexpr int64_t kGroupCols = 1024;         // of a range of blocks, more or less
constexpr int64_t kGroupElements = 1 << 16;  // of its matrices, at most
constexpr int64_t kTasksWanted = 16;         // ranges of rows are added until there are as many

/// How rows and blocks are cut, and the sizes of what is packed and staged.
struct Division {
  int64_t rows, block, count;      // blocks in a row
  bool shared;                     // one matrix for all of them
  int64_t tile_cols, width;        // a packed matrix' columns, padded
  int64_t tile_rows;               // rows that are staged together
  int64_t staged_blocks, chunks;   // blocks that are staged together, or the parts of kStagedCols that one takes
  int64_t groups, row_ranges;

  template <class T>
  Division(const MatrixView& x, const MatrixView& blocks, int64_t block_, const BlockKernels<T>& kernels, int64_t tiles)
      : rows(x.rows), block(block_), count(x.cols / block_), shared(blocks.rows == block_), tile_cols(kernels.tile_cols),
        width(ceil_div(block_, tile_cols) * tile_cols),
        tile_rows(ceil_div(kRowsWanted, kernels.tile_rows) * kernels.tile_rows * tiles),
        staged_blocks(std::max<int64_t>(kStagedCols / block_, 1)), chunks(ceil_div(block_, kStagedCols)) {
    const int64_t cols = shared ? kGroupCols : std::min(kGroupCols, kGroupElements / block);
    groups = std::min(count, ceil_div(count, std::max<int64_t>(cols / block, 1)));
    row_ranges = std::min(ceil_div(rows, tile_rows), ceil_div(kTasksWanted, groups));
  }

  int64_t matrices() const { return shared ? 1 : count; }
  int64_t matrix(int64_t index) const { return shared ? 0 : index; }
  int64_t packed() const { return block * width; }  // elements of a matrix
  int64_t tasks() const { return groups * row_ranges; }
  /// Kernels::multiply reads whole panels, which may go past the last column.
  int64_t staged() const { return chunks * tile_rows * kStagedStride + tile_cols; }

  int64_t first_block(int64_t group) const { return count * group / groups; }
  int64_t first_row(int64_t range) const {
    return std::min(rows, ceil_div(rows, tile_rows) * range / row_ranges * tile_rows);
  }
};

/// Matrices as BlockKernels::apply reads them.
template <class T>
struct PackedMatrices {
  const Kernels<T>& kernels;
  const Division& division;
  bool transposed, in_place;
  MatrixView blocks;
  const T* data = nullptr;
  int64_t r_stride, panel_stride, matrix_stride;

  PackedMatrices(const Kernels<T>& kernels_, const Division& division_, const MatrixView& blocks_, bool transposed_)
      : kernels(kernels_), division(division_), transposed(transposed_), blocks(blocks_) {
    const bool same = blocks.dtype == (sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32);
    // Panels of wide matrices are lines far apart, which evict each other from the first level cache: worth a copy.
    const bool near = division.block <= 2 * division.tile_cols || division.rows < 4 * division.tile_rows;
    in_place = !transposed && same && blocks.col_stride == 1 && division.block % division.tile_cols == 0 && near;
    r_stride = in_place ? blocks.row_stride : division.tile_cols;
    panel_stride = in_place ? division.tile_cols : division.block * division.tile_cols;
    matrix_stride = in_place ? division.block * blocks.row_stride : division.packed();
    if (in_place) data = static_cast<const T*>(blocks.data);
  }

  int64_t elements() const { return in_place ? 0 : division.matrices() * division.packed(); }
  const T* at(int64_t n) const { return data + division.matrix(n) * matrix_stride; }

  void pack(T* packed, const Context& context) {
    if (in_place) return;
    data = packed;
    const int64_t block = division.block, tile_cols = division.tile_cols;
    run_tasks(context, division.matrices(), 4 * division.matrices() * block * block, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        for (int64_t j = 0; j < block; j += tile_cols) {
          Source from = source_at(blocks, index * block + (transposed ? j : 0), transposed ? 0 : j);
          if (transposed) std::swap(from.row_stride, from.col_stride);
          kernels.stage(packed + index * division.packed() + j * block, tile_cols, from, block,
                        std::min(tile_cols, block - j), tile_cols);
        }
      }
    });
  }
};

/// Stages columns [col, end) of `rows` rows.
template <class T>
void stage_rows(const Kernels<T>& kernels, const Division& division, const MatrixView& x, int64_t row, int64_t rows,
                int64_t col, int64_t end, T* staged) {
  for (; col < end; col += kStagedCols, staged += division.tile_rows * kStagedStride) {
    const int64_t count = std::min(kStagedCols, end - col);
    kernels.stage(staged, kStagedStride, source_at(x, row, col), rows, count, count);
  }
}

/// y_n of staged x_n.
template <class T>
void apply_block(const BlockKernels<T>& kernels, const Division& division, const PackedMatrices<T>& matrices, int64_t n,
                 const T* staged, int64_t row, int64_t rows, const MutableMatrixView& y) {
  for (int64_t i = 0; i < rows; i += kernels.tile_rows) {
    kernels.apply(int(std::min<int64_t>(kernels.tile_rows, rows - i)), division.block, staged + i * kStagedStride,
                  division.tile_rows * kStagedStride, matrices.at(n), matrices.r_stride, matrices.panel_stride,
                  division.block, destination_at(y, row + i, n * division.block));
  }
}

/// body(task, range of rows, group, first row, rows, first block, end block) for what is staged together.
template <class Body>
void for_each_tile(const Division& division, int64_t multiply_adds, const Context& context, const Body& body) {
  run_tasks(context, division.tasks(), multiply_adds, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t range = task / division.groups, group = task % division.groups;
      const int64_t end_row = division.first_row(range + 1), end_block = division.first_block(group + 1);
      for (int64_t row = division.first_row(range); row < end_row; row += division.tile_rows)
        for (int64_t n = division.first_block(group); n < end_block; n += division.staged_blocks)
          body(task, range, group, row, std::min(division.tile_rows, end_row - row), n,
               std::min(end_block, n + division.staged_blocks));
    }
  });
}

template <class T>
size_t bytes_of(int64_t count) { return Workspace::padded(size_t(count) * sizeof(T)); }

template <class T>
std::vector<T*> take_each(Workspace& workspace, int64_t tasks, int64_t elements) {
  std::vector<T*> scratch(static_cast<size_t>(tasks));
  for (T*& own : scratch) own = workspace.take<T>(elements);
  return scratch;
}

}  // namespace

template <class T>
size_t block_diagonal_workspace(const BlockDiagonalArgs& args) {
  const Division division(args.x, args.blocks, args.block, selected_block_kernels<T>(), 1);
  const PackedMatrices<T> matrices(selected_kernels<T>(), division, args.blocks, args.transpose);
  return bytes_of<T>(matrices.elements()) + size_t(division.tasks()) * bytes_of<T>(division.staged());
}

template <class T>
Status block_diagonal(const BlockDiagonalArgs& args, const Context& context) {
  const Kernels<T>& blocks = selected_kernels<T>();
  const BlockKernels<T>& kernels = selected_block_kernels<T>();
  const Division division(args.x, args.blocks, args.block, kernels, 1);
  PackedMatrices<T> matrices(blocks, division, args.blocks, args.transpose);
  const size_t bytes = block_diagonal_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("block_diagonal_apply", bytes);
  T* const packed = workspace.take<T>(matrices.elements());
  const std::vector<T*> scratch = take_each<T>(workspace, division.tasks(), division.staged());
  matrices.pack(packed, context);
  const int64_t block = args.block;
  for_each_tile(division, args.x.rows * args.x.cols * block, context,
                [&](int64_t task, int64_t, int64_t, int64_t row, int64_t rows, int64_t first, int64_t end) {
    T* const staged = scratch[size_t(task)];
    stage_rows(blocks, division, args.x, row, rows, first * block, end * block, staged);
    for (int64_t n = first; n < end; ++n)
      apply_block(kernels, division, matrices, n, staged + (n - first) * block, row, rows, args.y);
  });
  return {};
}

namespace {

/// What the gradient needs beside the matrices: x and g staged, and sums for every range of rows.
struct GradientMemory {
  const Division& division;
  const int64_t sums_a_range;  // a matrix each; of one for all, a group each

  explicit GradientMemory(const Division& division_)
      : division(division_), sums_a_range(division_.shared ? division_.groups : division_.count) {}

  int64_t scratch() const { return 2 * division.staged(); }
  int64_t sums() const { return division.row_ranges * sums_a_range * division.packed(); }
  /// Whether the only sums there are lie as the result does.
  bool fits(const MutableMatrixView& dblocks, size_t element) const {
    return sums_a_range * division.row_ranges == division.matrices() && division.width == division.block &&
           dblocks.col_stride == 1 && dblocks.row_stride == division.block &&
           dblocks.dtype == (element == 8 ? DType::kFloat64 : DType::kFloat32);
  }
  template <class T>
  T* sum(T* sums, int64_t range, int64_t group, int64_t n) const {
    return sums + (range * sums_a_range + (division.shared ? group : n)) * division.packed();
  }
};

/// sum = a_n^T b_n over `rows` staged rows, or += when `accumulate`.
template <class T>
void add_product(const Kernels<T>& kernels, const Division& division, const T* a, const T* b, int64_t rows, T* sum,
                 bool accumulate) {
  const int64_t block = division.block, chunk_stride = division.tile_rows * kStagedStride;
  for (int64_t chunk = 0; chunk < block; chunk += kStagedCols) {
    const T* const a_chunk = a + chunk / kStagedCols * chunk_stride;
    const int64_t end = std::min(block, chunk + kStagedCols), height = balanced_part(end - chunk, kernels.tile_rows);
    for (int64_t j = 0; j < block; j += kernels.tile_cols) {
      const T* const b_panel = b + j / kStagedCols * chunk_stride + j % kStagedCols;
      for (int64_t i = chunk; i < end; i += height)
        kernels.multiply(std::min(height, end - i), rows, a_chunk + i - chunk, kStagedStride, b_panel, kStagedStride,
                         sum + i * division.width + j, division.width, accumulate, a_chunk, 0);
    }
  }
}

}  // namespace

template <class T>
size_t block_diagonal_backward_workspace(const BlockDiagonalBackwardArgs& args) {
  const Division division(args.x, args.blocks, args.block, selected_block_kernels<T>(), kGradientTiles);
  const PackedMatrices<T> matrices(selected_kernels<T>(), division, args.blocks, !args.transpose);
  const GradientMemory memory(division);
  return bytes_of<T>(args.dx.present() ? matrices.elements() : 0) +
         bytes_of<T>(memory.fits(args.dblocks, sizeof(T)) ? 0 : memory.sums()) +
         size_t(division.tasks()) * bytes_of<T>(memory.scratch());
}

template <class T>
Status block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context) {
  const Kernels<T>& blocks = selected_kernels<T>();
  const BlockKernels<T>& kernels = selected_block_kernels<T>();
  const Division division(args.x, args.blocks, args.block, kernels, kGradientTiles);
  PackedMatrices<T> matrices(blocks, division, args.blocks, !args.transpose);
  const GradientMemory memory(division);
  const bool wants_dx = args.dx.present(), in_place = memory.fits(args.dblocks, sizeof(T));
  const size_t bytes = block_diagonal_backward_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("block_diagonal_backward", bytes);
  T *const packed = workspace.take<T>(wants_dx ? matrices.elements() : 0),
    *const sums = in_place ? static_cast<T*>(args.dblocks.data) : workspace.take<T>(memory.sums());
  const std::vector<T*> scratch = take_each<T>(workspace, division.tasks(), memory.scratch());
  if (wants_dx) matrices.pack(packed, context);
  const int64_t block = args.block;
  for_each_tile(division, 2 * args.x.rows * args.x.cols * block, context,
                [&](int64_t task, int64_t range, int64_t group, int64_t row, int64_t rows, int64_t first, int64_t end) {
    T *const x = scratch[size_t(task)], *const grad = x + division.staged();
    stage_rows(blocks, division, args.x, row, rows, first * block, end * block, x);
    stage_rows(blocks, division, args.grad, row, rows, first * block, end * block, grad);
    for (int64_t n = first; n < end; ++n) {
      const int64_t offset = (n - first) * block;
      const bool starts = row == division.first_row(range) && (!division.shared || n == division.first_block(group));
      add_product(blocks, division, (args.transpose ? grad : x) + offset, (args.transpose ? x : grad) + offset, rows,
                  memory.sum(sums, range, group, n), !starts);
      if (wants_dx) apply_block(kernels, division, matrices, n, grad + offset, row, rows, args.dx);
    }
  });
  if (in_place) return {};
  // A matrix' sums, in the order of ranges and groups.
  const int64_t parts = division.row_ranges * (division.shared ? division.groups : 1);
  run_tasks(context, division.matrices(), parts * division.matrices() * division.packed(),
            [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      T* const total = memory.sum(sums, 0, 0, index);
      for (int64_t part = 1; part < parts; ++part) {
        const T* const more = total + part * (division.shared ? 1 : memory.sums_a_range) * division.packed();
        for (int64_t i = 0; i < division.packed(); ++i) total[i] += more[i];
      }
      blocks.finish(total, division.width, block, block, nullptr, nullptr,
                    destination_at(args.dblocks, index * block, 0));
    }
  });
  return {};
}

template <class T>
const BlockKernels<T>& selected_block_kernels() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return block_kernels_avx512<T>();
    case CpuIsa::kAvx2: return block_kernels_avx2<T>();
    case CpuIsa::kPortable: break;
  }
#endif
  return block_kernels_portable<T>();
}

template const BlockKernels<float>& selected_block_kernels<float>();
template const BlockKernels<double>& selected_block_kernels<double>();
template size_t block_diagonal_workspace<float>(const BlockDiagonalArgs&);
template size_t block_diagonal_workspace<double>(const BlockDiagonalArgs&);
template Status block_diagonal<float>(const BlockDiagonalArgs&, const Context&);
template Status block_diagonal<double>(const BlockDiagonalArgs&, const Context&);
template size_t block_diagonal_backward_workspace<float>(const BlockDiagonalBackwardArgs&);
template size_t block_diagonal_backward_workspace<double>(const BlockDiagonalBackwardArgs&);
template Status block_diagonal_backward<float>(const BlockDiagonalBackwardArgs&, const Context&);
template Status block_diagonal_backward<double>(const BlockDiagonalBackwardArgs&, const Context&);

}  // namespace lrk::cpu
