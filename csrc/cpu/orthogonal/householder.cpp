// householder_cpu(): unit rows and their gradient. Each row is read from memory once and passed over in the first or
// second level cache; sums run in kLanes lanes, so that a baseline compiler vectorises them and the order is fixed.
#include <cmath>
#include <limits>
#include <type_traits>

#include "cpu/gemm/block.h"
#include "lrk/householder.h"
#include "runtime/cpu_features.h"

namespace lrk {
namespace {

using cpu::ceil_div;

constexpr int64_t kTasks = 16, kLanes = 16;

std::string kernel_name(const char* operation) {
  return std::string("householder_") + operation + "_" + name_of(selected_cpu_isa());
}

/// A row of T a task, `rows_a_task` of them.
template <class T>
size_t workspace_of(int64_t rows, int64_t features, int64_t rows_a_task) {
  return size_t(std::min(rows, kTasks)) * cpu::Workspace::padded(size_t(features * rows_a_task) * sizeof(T));
}

Plan plan(const char* operation, const MatrixView& units, int64_t rows, int64_t rows_a_task) {
  Plan plan;
  plan.kernel = kernel_name(operation), plan.reason = "the only kernel there is";
  plan.workspace_bytes = units.dtype == DType::kFloat64 ? workspace_of<double>(rows, units.cols, rows_a_task)
                                                        : workspace_of<float>(rows, units.cols, rows_a_task);
#if defined(__x86_64__)
  plan.hardware_verified = true;
#endif
  return plan;
}

bool in_double(const MatrixView& view) { return view.dtype == DType::kFloat64; }

/// Calls body(row, buffer of `rows_a_task` rows) for every row, a few tasks at a time.
template <class T, class Body>
Status for_each_row(const char* operation, int64_t rows, int64_t features, int64_t rows_a_task, const Context& context,
                    const Body& body) {
  const int64_t tasks = std::min(rows, kTasks);
  const size_t bytes = workspace_of<T>(rows, features, rows_a_task);
  cpu::Workspace workspace(bytes);
  if (!workspace.allocate(context)) return cpu::out_of_memory(operation, bytes);
  std::vector<T*> buffers(static_cast<size_t>(tasks));
  for (T*& buffer : buffers) buffer = workspace.take<T>(features * rows_a_task);
  cpu::run_tasks(context, tasks, rows * features * 4, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      for (int64_t row = rows * task / tasks; row < rows * (task + 1) / tasks; ++row) body(row, buffers[size_t(task)]);
  });
  return {};
}

/// sum of f(j) over j < count, in lanes.
template <class T, class Term>
T lane_sum(int64_t count, const Term& term) {
  T sums[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += term(j + lane);
  for (int64_t lane = 0; j < count; ++j, ++lane) sums[lane] += term(j);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

/// The largest magnitude; NaN is passed over.
template <class T>
T largest_of(const T* values, int64_t count) {
  T most[kLanes] = {};
  const auto take = [&](int64_t j, int64_t lane) {
    const T magnitude = std::fabs(values[j]);
    most[lane] = magnitude > most[lane] ? magnitude : most[lane];
  };
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) take(j + lane, lane);
  for (int64_t lane = 0; j < count; ++j, ++lane) take(j, lane);
  return *std::max_element(most, most + kLanes);
}

template <class T>
Status unit_rows_of(const UnitRowsArgs& args, const Context& context) {
  const cpu::Kernels<T>& kernels = cpu::selected_kernels<T>();
  const int64_t count = args.vectors.rows, features = args.vectors.cols;
  return for_each_row<T>("unit_rows", args.units.rows, features, 1, context, [&](int64_t row, T* v) {
    T largest = 0, norm = 0;
    int64_t begin = 0, end = row < count ? features : 0;
    if (row < count) {
      kernels.stage(v, features, cpu::source_at(args.vectors, row, 0), 1, features, features);
      while (begin < end && v[begin] == T(0)) ++begin;
      while (begin < end && v[end - 1] == T(0)) --end;
      largest = largest_of(v, features);
      // Neither division by a subnormal number nor multiplication by its reciprocal may overflow.
      if (largest >= std::numeric_limits<T>::min() && largest <= std::numeric_limits<T>::max() / 4) {
        const T reciprocal = 1 / largest;
        for (int64_t j = begin; j < end; ++j) v[j] *= reciprocal;
      } else if (largest > 0) {
        for (int64_t j = begin; j < end; ++j) v[j] /= largest;
      }
      norm = std::sqrt(lane_sum<T>(features, [&](int64_t j) { return v[j] * v[j]; }));
      if (!std::isfinite(norm)) begin = 0, end = features;  // NaN reaches every column, as in the product it stands for
      const T reciprocal = 1 / norm;
      for (int64_t j = begin; j < end; ++j) v[j] *= reciprocal;
      T* const lengths = static_cast<T*>(args.lengths.data) + row * args.lengths.row_stride;
      lengths[0] = largest == 0 ? norm : largest, lengths[args.lengths.col_stride] = norm;  // NaN, of nothing but NaN
      if (args.used_columns != nullptr) args.used_columns[2 * row] = begin, args.used_columns[2 * row + 1] = end;
    } else {
      std::fill_n(v, features, T(0));
    }
    kernels.finish(v, features, 1, features, nullptr, nullptr, cpu::destination_at(args.units, row, 0));
  });
}

Plan plan_unit_rows(const UnitRowsArgs& args, const Context&) {
  return plan("unit_rows", args.units, args.units.rows, 1);
}

Status unit_rows(const UnitRowsArgs& args, const Context& context) {
  record_dispatch(kernel_name("unit_rows"));
  return in_double(args.units) ? unit_rows_of<double>(args, context) : unit_rows_of<float>(args, context);
}

template <class T>
Status unit_rows_backward_of(const UnitRowsBackwardArgs& args, const Context& context) {
  const cpu::Kernels<T>& kernels = cpu::selected_kernels<T>();
  const int64_t features = args.dvectors.cols;
  const auto run = [&](int64_t row, T* u) {
    T *const du = u + features, *const more = du + features;
    const auto stage = [&](T* to, const MatrixView& from) {
      kernels.stage(to, features, cpu::source_at(from, row, 0), 1, features, features);
    };
    const T* const lengths = static_cast<const T*>(args.lengths.data) + row * args.lengths.row_stride;
    const T largest = lengths[0], norm = lengths[args.lengths.col_stride];
    if (largest == 0) {
      std::fill_n(du, features, T(0));
    } else {
      stage(u, args.units), stage(du, args.first), stage(more, args.second);
      for (int64_t j = 0; j < features; ++j) du[j] += more[j];
      const T along = lane_sum<T>(features, [&](int64_t j) { return du[j] * u[j]; });
      for (int64_t j = 0; j < features; ++j) du[j] = (du[j] - along * u[j]) / norm / largest;
    }
    kernels.finish(du, features, 1, features, nullptr, nullptr, cpu::destination_at(args.dvectors, row, 0));
  };
  return for_each_row<T>("unit_rows_backward", args.dvectors.rows, features, 3, context, run);
}

Plan plan_unit_rows_backward(const UnitRowsBackwardArgs& args, const Context&) {
  return plan("unit_rows_backward", args.units, args.dvectors.rows, 3);
}

Status unit_rows_backward(const UnitRowsBackwardArgs& args, const Context& context) {
  record_dispatch(kernel_name("unit_rows_backward"));
  return in_double(args.units) ? unit_rows_backward_of<double>(args, context)
                               : unit_rows_backward_of<float>(args, context);
}

std::vector<std::string> kernel_names() { return {kernel_name("unit_rows"), kernel_name("unit_rows_backward")}; }

}  // namespace

const HouseholderBackend& householder_cpu() {
  static constexpr HouseholderBackend backend{
      "cpu", plan_unit_rows, unit_rows, plan_unit_rows_backward, unit_rows_backward, kernel_names};
  return backend;
}

}  // namespace lrk
