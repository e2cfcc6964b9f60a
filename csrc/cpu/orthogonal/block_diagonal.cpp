// y_n = x_n R_n for every block n of features, and its gradients.
//
// Work: block multiply-adds an element (gradients: twice that); bytes: x and y once (x, g and dx). Up to blocks of about
// 32 that is memory's, so a tile of rows is read, multiplied and written while it is in the caches: x is transposed into
// panels on the way in, the matrices are packed once for all rows, and a product leaves with one rounding. The gradient
// of the matrices is summed beside dx, from the same reading of g.
//
// Tasks are ranges of blocks, about a page of a row wide, times ranges of rows. Each range of rows has sums of its own,
// which are added in order; the ranges depend on the shape alone.
#include <algorithm>
#include <vector>

#include "cpu/gemm/block.h"
#include "cpu/orthogonal/block_diagonal.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTileRows = 56;
constexpr int64_t kGroupCols = 1024;   // of a range of blocks, more or less
constexpr int64_t kTasksWanted = 16;   // ranges of rows are added until there are as many

/// How rows and blocks are cut, and the sizes of what is packed.
struct Division {
  int64_t rows, block, count;        // blocks in a row
  bool shared;                       // one matrix for all of them
  int64_t tile_cols, width;          // a packed matrix' columns, padded
  int64_t groups, row_ranges;

  Division(const MatrixView& x, const MatrixView& blocks, int64_t block_, int64_t tile_cols_)
      : rows(x.rows), block(block_), count(x.cols / block_), shared(blocks.rows == block_), tile_cols(tile_cols_),
        width(ceil_div(block_, tile_cols_) * tile_cols_) {
    groups = std::min(count, ceil_div(count * block, kGroupCols));
    row_ranges = std::min(ceil_div(rows, kTileRows), ceil_div(kTasksWanted, groups));
  }

  int64_t matrices() const { return shared ? 1 : count; }
  int64_t matrix(int64_t index) const { return shared ? 0 : index; }
  int64_t packed() const { return block * width; }  // elements of a matrix
  int64_t tasks() const { return groups * row_ranges; }

  int64_t first_block(int64_t group) const { return count * group / groups; }
  int64_t first_row(int64_t range) const {
    return std::min(rows, ceil_div(rows, kTileRows) * range / row_ranges * kTileRows);
  }
};

/// Matrices as Kernels::multiply reads its second operand: panels of tile_cols columns.
template <class T>
void pack_matrices(const Kernels<T>& kernels, const Division& division, const MatrixView& blocks, bool transposed,
                   T* packed, const Context& context) {
  const int64_t block = division.block;
  run_tasks(context, division.matrices(), 4 * division.matrices() * block * block, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      for (int64_t j = 0; j < block; j += division.tile_cols) {
        Source from = source_at(blocks, index * block + (transposed ? j : 0), transposed ? 0 : j);
        if (transposed) std::swap(from.row_stride, from.col_stride);
        kernels.stage(packed + index * division.packed() + j * block, division.tile_cols, from, block,
                      std::min(division.tile_cols, block - j), division.tile_cols);
      }
    }
  });
}

/// Rows of x_n as Kernels::multiply reads its first operand: panels of as many rows as a tile of C has.
template <class T>
class RowPanels {
 public:
  static int64_t elements(const Kernels<T>& kernels, int64_t block) {
    return ceil_div(kTileRows, kernels.tile_rows) * kernels.tile_rows * block;
  }

  RowPanels(const Kernels<T>& kernels, int64_t block, T* memory)
      : kernels_(kernels), block_(block), memory_(memory) {}

  void load(const MatrixView& x, int64_t row, int64_t rows, int64_t first_col) {
    height_ = balanced_part(rows, kernels_.tile_rows);
    for (int64_t i = 0; i < rows; i += height_) {
      Source from = source_at(x, row + i, first_col);
      std::swap(from.row_stride, from.col_stride);
      kernels_.stage(memory_ + i * block_, height_, from, block_, std::min(height_, rows - i), height_);
    }
  }

  void multiply(const T* packed, const Division& division, int64_t rows, T* product) const {
    multiply_block(kernels_, Panels<T>{memory_, block_ * height_, height_}, rows,
                   Panels<T>{packed, block_ * division.tile_cols, division.tile_cols}, block_, block_, product,
                   division.width, false);
  }

 private:
  const Kernels<T>& kernels_;
  const int64_t block_;
  int64_t height_ = 1;
  T* memory_;
};

/// body(task's scratch, range of rows, group, first row, rows, block) for every tile of every task.
template <class T, class Body>
void for_each_tile(const Division& division, int64_t multiply_adds, const std::vector<T*>& scratch,
                   const Context& context, const Body& body) {
  run_tasks(context, division.tasks(), multiply_adds, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t range = task / division.groups, group = task % division.groups;
      const int64_t last_row = division.first_row(range + 1);
      for (int64_t row = division.first_row(range); row < last_row; row += kTileRows)
        for (int64_t n = division.first_block(group); n < division.first_block(group + 1); ++n)
          body(scratch[size_t(task)], range, group, row, std::min(kTileRows, last_row - row), n);
    }
  });
}

template <class T>
std::vector<T*> take_each(Workspace& workspace, int64_t tasks, int64_t elements) {
  std::vector<T*> scratch(static_cast<size_t>(tasks));
  for (T*& own : scratch) own = workspace.take<T>(elements);
  return scratch;
}

template <class T>
size_t bytes_of(int64_t count) { return Workspace::padded(size_t(count) * sizeof(T)); }

template <class T>
int64_t forward_scratch(const Kernels<T>& kernels, const Division& division) {
  return RowPanels<T>::elements(kernels, division.block) + kTileRows * division.width;
}

}  // namespace

template <class T>
size_t block_diagonal_workspace(const BlockDiagonalArgs& args) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const Division division(args.x, args.blocks, args.block, kernels.tile_cols);
  return bytes_of<T>(division.matrices() * division.packed()) +
         size_t(division.tasks()) * bytes_of<T>(forward_scratch(kernels, division));
}

template <class T>
Status block_diagonal(const BlockDiagonalArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const Division division(args.x, args.blocks, args.block, kernels.tile_cols);
  const size_t bytes = block_diagonal_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("block_diagonal_apply", bytes);
  T* const packed = workspace.take<T>(division.matrices() * division.packed());
  const std::vector<T*> scratch = take_each<T>(workspace, division.tasks(), forward_scratch(kernels, division));
  pack_matrices(kernels, division, args.blocks, args.transpose, packed, context);
  const int64_t block = args.block;
  for_each_tile(division, args.x.rows * args.x.cols * block, scratch, context,
                [&](T* own, int64_t, int64_t, int64_t row, int64_t rows, int64_t n) {
    RowPanels<T> panels(kernels, block, own);
    T* const product = own + RowPanels<T>::elements(kernels, block);
    panels.load(args.x, row, rows, n * block);
    panels.multiply(packed + division.matrix(n) * division.packed(), division, rows, product);
    kernels.finish(product, division.width, rows, block, nullptr, nullptr, destination_at(args.y, row, n * block));
  });
  return {};
}

namespace {

/// What the gradient needs beside the forward's scratch: x and g by rows, and sums for every range of rows.
template <class T>
struct BackwardMemory {
  const Division& division;
  const bool wants_dx;
  const int64_t sums_a_range;  // a matrix each; of one for all, a group each

  BackwardMemory(const Division& division_, bool wants_dx_)
      : division(division_), wants_dx(wants_dx_),
        sums_a_range(division_.shared ? division_.groups : division_.count) {}

  int64_t tile() const { return kTileRows * division.width; }
  int64_t scratch(const Kernels<T>& kernels) const { return 2 * tile() + forward_scratch(kernels, division); }
  int64_t packed() const { return wants_dx ? division.matrices() * division.packed() : 0; }
  int64_t sums() const { return division.row_ranges * sums_a_range * division.packed(); }
  T* sum(T* sums, int64_t range, int64_t group, int64_t n) const {
    return sums + (range * sums_a_range + (division.shared ? group : n)) * division.packed();
  }

  size_t bytes(const Kernels<T>& kernels) const {
    return bytes_of<T>(packed()) + bytes_of<T>(sums()) + size_t(division.tasks()) * bytes_of<T>(scratch(kernels));
  }
};

/// sum += a^T b over `rows` rows of two tiles.
template <class T>
void add_product(const Kernels<T>& kernels, const Division& division, const T* a, const T* b, int64_t rows, T* sum) {
  const int64_t block = division.block, width = division.width, height = balanced_part(block, kernels.tile_rows);
  for (int64_t j = 0; j < block; j += kernels.tile_cols)
    for (int64_t i = 0; i < block; i += height)
      kernels.multiply(std::min(height, block - i), rows, a + i, width, b + j, width, sum + i * width + j, width, true,
                       a, 0);
}

}  // namespace

template <class T>
size_t block_diagonal_backward_workspace(const BlockDiagonalBackwardArgs& args) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const Division division(args.x, args.blocks, args.block, kernels.tile_cols);
  return BackwardMemory<T>(division, args.dx.present()).bytes(kernels);
}

template <class T>
Status block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context) {
  const Kernels<T>& kernels = selected_kernels<T>();
  const Division division(args.x, args.blocks, args.block, kernels.tile_cols);
  const BackwardMemory<T> memory(division, args.dx.present());
  const size_t bytes = memory.bytes(kernels);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("block_diagonal_apply backward", bytes);
  T *const packed = workspace.take<T>(memory.packed()), *const sums = workspace.take<T>(memory.sums());
  const std::vector<T*> scratch = take_each<T>(workspace, division.tasks(), memory.scratch(kernels));
  if (memory.wants_dx) pack_matrices(kernels, division, args.blocks, !args.transpose, packed, context);
  const int64_t block = args.block, width = division.width;
  const int64_t multiply_adds = args.x.rows * args.x.cols * block;
  run_tasks(context, division.row_ranges * memory.sums_a_range, memory.sums(), [&](int64_t begin, int64_t end) {
    std::fill(sums + begin * division.packed(), sums + end * division.packed(), T(0));
  });
  for_each_tile(division, 2 * multiply_adds, scratch, context,
                [&](T* own, int64_t range, int64_t group, int64_t row, int64_t rows, int64_t n) {
    T *const x = own, *const grad = own + memory.tile(), *const rest = own + 2 * memory.tile();
    kernels.stage(x, width, source_at(args.x, row, n * block), rows, block, width);
    kernels.stage(grad, width, source_at(args.grad, row, n * block), rows, block, width);
    T* const sum = memory.sum(sums, range, group, n);
    add_product(kernels, division, args.transpose ? grad : x, args.transpose ? x : grad, rows, sum);
    if (!memory.wants_dx) return;
    RowPanels<T> panels(kernels, block, rest);
    T* const product = rest + RowPanels<T>::elements(kernels, block);
    const DType dtype = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
    panels.load(MatrixView{grad, dtype, rows, block, width, 1}, 0, rows, 0);
    panels.multiply(packed + division.matrix(n) * division.packed(), division, rows, product);
    kernels.finish(product, width, rows, block, nullptr, nullptr, destination_at(args.dx, row, n * block));
  });
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
      kernels.finish(total, width, block, block, nullptr, nullptr, destination_at(args.dblocks, index * block, 0));
    }
  });
  return {};
}

template size_t block_diagonal_workspace<float>(const BlockDiagonalArgs&);
template size_t block_diagonal_workspace<double>(const BlockDiagonalArgs&);
template Status block_diagonal<float>(const BlockDiagonalArgs&, const Context&);
template Status block_diagonal<double>(const BlockDiagonalArgs&, const Context&);
template size_t block_diagonal_backward_workspace<float>(const BlockDiagonalBackwardArgs&);
template size_t block_diagonal_backward_workspace<double>(const BlockDiagonalBackwardArgs&);
template Status block_diagonal_backward<float>(const BlockDiagonalBackwardArgs&, const Context&);
template Status block_diagonal_backward<double>(const BlockDiagonalBackwardArgs&, const Context&);

}  // namespace lrk::cpu
