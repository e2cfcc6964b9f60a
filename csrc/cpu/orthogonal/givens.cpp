// y = rounds of plane rotations of x, and its gradient.
//
// Work: 4 multiply-adds a pair, 2 rows features rounds in all; bytes: x and y once (twelve rounds of 4096 features: 3072
// cycles a row for two FMA units of AVX-512, about what copying the row from memory takes). So a tile of rows stays in
// the second level cache, rounds are computed up to eight at a time in registers (givens_kernels.h), and those that
// couple only near columns run on a piece of the row that stays in the first. Coefficients are packed in reading order.
//
// The backward pass walks y and its gradient back together. Its sums over rows go to one array a task, and the arrays
// are added in the order of the tasks, of which there are as many as the shape says.
#include <algorithm>

#include "cpu/gemm/block.h"
#include "cpu/orthogonal/givens.h"
#include "cpu/orthogonal/givens_schedule.h"
#include "runtime/cpu_features.h"

namespace lrk::cpu {
namespace {

constexpr int64_t kTileRows = 8;       // 128 KiB of 4096 floats
constexpr int64_t kLocalBytes = 2048;  // of a row, so 16 KiB of the tile
constexpr int64_t kMostTasks = 32;     // each has a tile, and sums, of its own

/// Whether the tile can be computed where its result goes.
template <class T>
bool usable_as_tile(const MatrixView& view, int64_t padded) {
  const bool same = view.dtype == (sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32);
  return same && view.col_stride == 1 && view.cols == padded && view.row_stride == padded;
}

/// What both directions need: the passes, and their coefficients.
template <class T>
struct Prepared {
  const GivensKernels<T>& kernels = selected_givens_kernels<T>();
  const Kernels<T>& blocks = selected_kernels<T>();
  GivensSchedule schedule;
  const T* coefficients = nullptr;

  Prepared(const GivensRounds& rounds, int64_t features)
      : schedule(schedule_givens(rounds, features, kernels.lanes, kLocalBytes / int64_t(sizeof(T)))) {}

  int64_t pairs() const { return schedule.features / 2; }
  size_t table_bytes(const GivensRounds& rounds) const {
    return Workspace::padded(size_t(rounds.angles.rows * pairs()) * sizeof(T));
  }
  size_t bytes(const GivensRounds& rounds) const {
    return 3 * table_bytes(rounds) + Workspace::padded(size_t(schedule.coefficients) * sizeof(T));
  }

  void pack(const GivensRounds& rounds, Workspace& workspace) {
    const int64_t count = rounds.angles.rows * pairs();
    T *const angles = workspace.take<T>(count), *const cos = workspace.take<T>(count),
      *const sin = workspace.take<T>(count), *const packed = workspace.take<T>(schedule.coefficients);
    blocks.stage(angles, pairs(), source_at(rounds.angles, 0, 0), rounds.angles.rows, pairs(), pairs());
    kernels.cos_sin(angles, count, cos, sin);
    pack_givens(schedule, rounds, kernels.lanes, cos, sin, pairs(), packed);
    coefficients = packed;
  }
};

int64_t tiles_of(int64_t rows) { return ceil_div(rows, kTileRows); }
int64_t tasks_of(int64_t rows) { return std::min(tiles_of(rows), kMostTasks); }

/// Calls body(tile, first row, rows) for the tiles of tasks [begin, end).
template <class Body>
void for_each_tile(int64_t rows, int64_t task, const Body& body) {
  const int64_t tiles = tiles_of(rows), tasks = tasks_of(rows);
  for (int64_t tile = tiles * task / tasks; tile < tiles * (task + 1) / tasks; ++tile)
    body(tile * kTileRows, std::min(kTileRows, rows - tile * kTileRows));
}

}  // namespace

template <class T>
size_t givens_workspace(const GivensArgs& args) {
  const Prepared<T> prepared(args.rounds, args.x.cols);
  const int64_t tile = kTileRows * prepared.schedule.padded;
  const bool in_place = usable_as_tile<T>(args.y, prepared.schedule.padded);
  return prepared.bytes(args.rounds) +
         (in_place ? 0 : size_t(tasks_of(args.x.rows)) * Workspace::padded(size_t(tile) * sizeof(T)));
}

template <class T>
Status givens(const GivensArgs& args, const Context& context) {
  const int64_t rows = args.x.rows, features = args.x.cols, tasks = tasks_of(rows);
  Prepared<T> prepared(args.rounds, features);
  const GivensSchedule& schedule = prepared.schedule;
  const int64_t padded = schedule.padded;
  const bool in_place = usable_as_tile<T>(args.y, padded);
  const size_t bytes = givens_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("givens_apply", bytes);
  prepared.pack(args.rounds, workspace);
  std::vector<T*> tiles(static_cast<size_t>(in_place ? 0 : tasks));
  for (T*& tile : tiles) tile = workspace.take<T>(kTileRows * padded);

  const auto compute = [&](T* tile, int64_t row, int64_t count) {
    const auto fetch = [&](int64_t begin, int64_t end) {
      prepared.blocks.stage(tile + begin, padded, source_at(args.x, row, begin), count,
                            std::min(end, features) - begin, end - begin);
    };
    if (schedule.stages.empty()) fetch(0, padded);
    for (size_t index = 0; index < schedule.stages.size(); ++index) {
      const GivensStage& stage = schedule.stages[index];
      for (int64_t begin = 0; begin < padded; begin += stage.columns) {
        const int64_t end = std::min(begin + stage.columns, padded);
        if (index == 0) fetch(begin, end);
        for (int pass = stage.first_pass; pass < stage.first_pass + stage.passes; ++pass) {
          const GivensPass& now = schedule.passes[size_t(pass)];
          prepared.kernels.rotate(now, features, prepared.coefficients + now.coefficients, tile, padded, count, begin,
                                  end);
        }
      }
    }
    if (!in_place) prepared.blocks.finish(tile, padded, count, features, nullptr, nullptr, destination_at(args.y, row, 0));
  };
  run_tasks(context, tasks, rows * features * args.rounds.angles.rows, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      for_each_tile(rows, task, [&](int64_t row, int64_t count) {
        compute(in_place ? static_cast<T*>(args.y.data) + row * padded : tiles[size_t(task)], row, count);
      });
    }
  });
  return {};
}

template <class T>
size_t givens_backward_workspace(const GivensBackwardArgs& args) {
  const Prepared<T> prepared(args.rounds, args.y.cols);
  const size_t tile = Workspace::padded(size_t(kTileRows * prepared.schedule.padded) * sizeof(T));
  const size_t sums = Workspace::padded(size_t(prepared.schedule.sums) * sizeof(T));
  return prepared.bytes(args.rounds) + size_t(tasks_of(args.y.rows)) * (2 * tile + sums) + sums;
}

template <class T>
Status givens_backward(const GivensBackwardArgs& args, const Context& context) {
  const int64_t rows = args.y.rows, features = args.y.cols, tasks = tasks_of(rows);
  Prepared<T> prepared(args.rounds, features);
  const GivensSchedule& schedule = prepared.schedule;
  const int64_t padded = schedule.padded;
  const size_t bytes = givens_backward_workspace<T>(args);
  Workspace workspace(bytes);
  if (!workspace.allocate(context)) return out_of_memory("givens_backward", bytes);
  prepared.pack(args.rounds, workspace);
  struct Task {
    T *y, *grad, *sums;
  };
  std::vector<Task> own(static_cast<size_t>(tasks));
  for (Task& task : own) {
    task = {workspace.take<T>(kTileRows * padded), workspace.take<T>(kTileRows * padded),
            workspace.take<T>(schedule.sums)};
  }
  T* const total = workspace.take<T>(schedule.sums);

  const auto compute = [&](const Task& task, int64_t row, int64_t count) {
    prepared.blocks.stage(task.y, padded, source_at(args.y, row, 0), count, features, padded);
    prepared.blocks.stage(task.grad, padded, source_at(args.grad, row, 0), count, features, padded);
    for (size_t index = schedule.stages.size(); index-- > 0;) {
      const GivensStage& stage = schedule.stages[index];
      for (int64_t begin = 0; begin < padded; begin += stage.columns) {
        const int64_t end = std::min(begin + stage.columns, padded);
        for (int pass = stage.first_pass + stage.passes - 1; pass >= stage.first_pass; --pass) {
          const GivensPass& now = schedule.passes[size_t(pass)];
          prepared.kernels.undo(now, features, prepared.coefficients + now.coefficients, task.y, task.grad, padded,
                                count, begin, end, task.sums + now.sums);
        }
      }
    }
    prepared.blocks.finish(task.grad, padded, count, features, nullptr, nullptr, destination_at(args.dx, row, 0));
  };
  run_tasks(context, tasks, 2 * rows * features * args.rounds.angles.rows, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      std::fill_n(own[size_t(task)].sums, schedule.sums, T(0));
      for_each_tile(rows, task, [&](int64_t row, int64_t count) { compute(own[size_t(task)], row, count); });
    }
  });
  std::fill_n(total, schedule.sums, T(0));
  for (const Task& task : own)
    for (int64_t i = 0; i < schedule.sums; ++i) total[i] += task.sums[i];
  unpack_givens_sums(schedule, args.rounds, prepared.kernels.lanes, total, args.dangles);
  return {};
}

template <class T>
const GivensKernels<T>& selected_givens_kernels() {
#if defined(__x86_64__)
  switch (selected_cpu_isa()) {
    case CpuIsa::kAvx512: return givens_kernels_avx512<T>();
    case CpuIsa::kAvx2: return givens_kernels_avx2<T>();
    case CpuIsa::kPortable: break;
  }
#endif
  return givens_kernels_portable<T>();
}

template const GivensKernels<float>& selected_givens_kernels<float>();
template const GivensKernels<double>& selected_givens_kernels<double>();
template size_t givens_workspace<float>(const GivensArgs&);
template size_t givens_workspace<double>(const GivensArgs&);
template Status givens<float>(const GivensArgs&, const Context&);
template Status givens<double>(const GivensArgs&, const Context&);
template size_t givens_backward_workspace<float>(const GivensBackwardArgs&);
template size_t givens_backward_workspace<double>(const GivensBackwardArgs&);
template Status givens_backward<float>(const GivensBackwardArgs&, const Context&);
template Status givens_backward<double>(const GivensBackwardArgs&, const Context&);

}  // namespace lrk::cpu
