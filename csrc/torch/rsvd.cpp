// torch.ops.lrk.orthonormalize, range_finder, rsvd and low_rank_approx: schemas, registration; on the CPU a matrix of
// the batch after the other, or small ones side by side, on CUDA all at once.
#include <array>
#include <atomic>
#include <cmath>
#include <tuple>

#include "lrk/side_by_side.h"
#include "lrk/sketch.h"
#include "torch/inspection.h"
#include "torch/plain.h"
#include "torch/sketch_checks.h"
#include "torch/sketch_matrices.h"

namespace lrk::binding {
namespace {

Tensor matrix_at(const Tensor& stack, int64_t index) { return torch::stable::select(stack, 0, index); }

/// What a matrix of a stack is computed with: several threads and whose products are the fastest, or one thread and the
/// library's own.
struct Means {
  const Context& context;
  MatrixProduct product;
  SymmetricEigen eigen;
};

/// Plans a kernel's run, or runs it with the arguments that `args_of(index, means)` makes for every matrix of the stack
/// of `a`, each `multiply_adds` of work. A matrix after the other has its own Execution, so that work memory lives as
/// long as it needs it.
template <class Args, class ArgsOf>
void for_each_matrix(const char* op, const char* primitive, Plan (*plan)(const Args&, const Context&),
                     Status (*kernel)(const Args&, const Context&), const Tensor& a, int64_t multiply_adds,
                     const ArgsOf& args_of) {
  const int64_t count = a.size(0);
  if (!planning() && goes_side_by_side(count, multiply_adds)) {
    const Execution execution(op, a);
    const auto one = [&](int64_t index, const Context& own) { return kernel(args_of(index, Means{own, {}, {}}), own); };
    return require(run_side_by_side(count, execution.context(), one), op);
  }
  for (int64_t index = 0; index < count && (index == 0 || !planning()); ++index) {
    const Execution execution(op, a);
    const Means means{execution.context(), matrix_product(execution), symmetric_eigen()};
    run(op, primitive, plan, kernel, args_of(index, means), means.context);
  }
}

std::tuple<Tensor, Tensor> orthonormalize(const Tensor& a) {
  const char* op = "orthonormalize";
  check_matrices(op, "a", a);
  const int64_t rows = a.size(a.dim() - 2), cols = a.size(a.dim() - 1), size = std::min(rows, cols);
  const ScalarType dtype = wide_dtype(a);
  const Tensor q = empty(batch_sizes(a, rows, size), dtype, a), r = empty(batch_sizes(a, size, cols), dtype, a);
  const Tensor qs = stack_of_matrices(q), rs = stack_of_matrices(r);
  if (const BatchedSketchBackend* const device = batched_sketch_for(op, a)) {
    const Execution execution(op, a);
    const Tensor matrices = stack_of_matrices(a);
    BatchedOrthonormalizeArgs args;
    args.a = matrices_of(matrices), args.q = mutable_matrices_of(qs), args.r = mutable_matrices_of(rs);
    run(op, "orthonormalize", device->plan_orthonormalize, device->orthonormalize, args, execution.context());
    return {q, r};
  }
  const Tensor as = stack_of_matrices(torch::stable::to(a, dtype));
  const Matrices from = matrices_of(as);
  const MutableMatrices to_q = mutable_matrices_of(qs), to_r = mutable_matrices_of(rs);
  for_each_matrix(op, "orthonormalize", sketch_cpu().plan_orthonormalize, sketch_cpu().orthonormalize, as,
                  rows * cols * size, [&](int64_t index, const Means& means) {
                    OrthonormalizeArgs args;
                    args.a = view_at(from, index), args.q = view_at(to_q, index), args.r = view_at(to_r, index);
                    args.product = means.product;
                    return args;
                  });
  return {q, r};
}

/// Stacks of a batch's matrices in the dtype that the kernels compute in.
struct Problem {
  Tensor a;
  OptionalTensor q0;

  Problem(const Tensor& matrices, const OptionalTensor& start)
      : a(stack_of_matrices(torch::stable::to(matrices, wide_dtype(matrices)))) {
    if (start) q0 = stack_of_matrices(torch::stable::to(*start, wide_dtype(matrices)));
  }
  RangeFinderArgs range_args(int64_t index, int64_t power_iters, int64_t seed, const Means& means) const {
    RangeFinderArgs args;
    args.a = view_at(matrices_of(a), index), args.power_iters = power_iters, args.seed = uint64_t(seed);
    if (q0) args.q0 = view_at(matrices_of(*q0), index);
    args.product = means.product;
    return args;
  }
};

/// The same for a device's algorithms, which take all matrices at once.
struct BatchedProblem : Problem {
  using Problem::Problem;

  BatchedRangeFinderArgs range_args(int64_t power_iters, int64_t seed) const {
    BatchedRangeFinderArgs args;
    args.a = matrices_of(a), args.power_iters = power_iters, args.seed = uint64_t(seed);
    if (q0) args.q0 = matrices_of(*q0);
    args.product = batched_product(a);
    return args;
  }
};

Tensor range_finder(const Tensor& a, int64_t rank, const OptionalTensor& q0, int64_t oversample, int64_t power_iters,
                    int64_t seed) {
  const char* op = "range_finder";
  check_range_finder(op, a, rank, q0, oversample, power_iters);
  const Tensor q = empty(batch_sizes(a, a.size(a.dim() - 2), basis_size(a, rank, oversample)), wide_dtype(a), a);
  const Tensor qs = stack_of_matrices(q);
  if (const BatchedSketchBackend* const device = batched_sketch_for(op, a)) {
    const Execution execution(op, a);
    const BatchedProblem problem(a, q0);
    BatchedRangeFinderArgs args = problem.range_args(power_iters, seed);
    args.q = mutable_matrices_of(qs);
    run(op, "range_finder", device->plan_range_finder, device->range_finder, args, execution.context());
    return q;
  }
  const Problem problem(a, q0);
  const MutableMatrices to = mutable_matrices_of(qs);
  for_each_matrix(op, "range_finder", sketch_cpu().plan_range_finder, sketch_cpu().range_finder, problem.a,
                  a.size(a.dim() - 1) * q.size(q.dim() - 2) * q.size(q.dim() - 1),
                  [&](int64_t index, const Means& means) {
                    RangeFinderArgs args = problem.range_args(index, power_iters, seed, means);
                    args.q = view_at(to, index);
                    return args;
                  });
  return q;
}

/// Whether NaN or Inf is anywhere in a contiguous matrix.
template <class T>
bool is_finite(const Tensor& matrix) {
  constexpr int64_t kLanes = 16, kPiece = 1 << 16;
  const T* const data = static_cast<const T*>(matrix.const_data_ptr());
  const int64_t count = matrix.numel();
  std::atomic<bool> finite = true;
  torch::stable::parallel_for(0, (count + kPiece - 1) / kPiece, 4, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(count, end * kPiece);
    int64_t i = begin * kPiece;
    T lanes[kLanes] = {}, sum = 0;  // zero times what is finite
    for (; i + kLanes <= last; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += T(0) * data[i + lane];
    for (; i < last; ++i) sum += T(0) * data[i];
    for (const T lane : lanes) sum += lane;
    if (!(sum == T(0))) finite = false;
  });
  return finite;
}

bool is_finite(const Tensor& matrix) {
  const Tensor whole = torch::stable::contiguous(matrix);
  return whole.scalar_type() == ScalarType::Double ? is_finite<double>(whole) : is_finite<float>(whole);
}

bool holds_nan(const Tensor& values) {
  for (int64_t i = 0; i < values.numel(); ++i)
    if (values.scalar_type() == ScalarType::Double ? std::isnan(static_cast<const double*>(values.const_data_ptr())[i])
                                                   : std::isnan(static_cast<const float*>(values.const_data_ptr())[i]))
      return true;
  return false;
}

std::tuple<Tensor, Tensor, Tensor> decompose(const char* op, const Tensor& a, int64_t rank, const OptionalTensor& q0,
                                             int64_t oversample, int64_t power_iters, int64_t seed,
                                             const std::string& check) {
  const int64_t rows = a.size(a.dim() - 2), cols = a.size(a.dim() - 1);
  const ScalarType dtype = wide_dtype(a);
  const Tensor u = empty(batch_sizes(a, rows, rank), dtype, a), s = empty(batch_sizes(a, -1, rank), dtype, a),
               v = empty(batch_sizes(a, cols, rank), dtype, a);
  const Tensor us = stack_of_matrices(u), vs = stack_of_matrices(v);
  if (const BatchedSketchBackend* const device = batched_sketch_for(op, a)) {
    const Execution execution(op, a);
    const BatchedProblem problem(a, q0);  // whose NaN and Inf end as NaN: nobody asks the device
    BatchedRsvdArgs args;
    args.range = problem.range_args(power_iters, seed), args.basis = basis_size(a, rank, oversample);
    args.u = mutable_matrices_of(us), args.v = mutable_matrices_of(vs);
    args.s = static_cast<float*>(s.mutable_data_ptr());
    run(op, "rsvd", device->plan_rsvd, device->rsvd, args, execution.context());
    return {u, s, v};
  }
  const Problem problem(a, q0);
  const Tensor ss = torch::stable::reshape(s, {problem.a.size(0), rank});
  const MutableMatrices to_u = mutable_matrices_of(us), to_v = mutable_matrices_of(vs),
                        to_s = mutable_matrices_of(torch::stable::unsqueeze(ss, 1));
  const int64_t basis = basis_size(a, rank, oversample);
  for_each_matrix(op, "rsvd", sketch_cpu().plan_rsvd, sketch_cpu().rsvd, problem.a, rows * cols * basis,
                  [&](int64_t index, const Means& means) {
                    RsvdArgs args;
                    args.range = problem.range_args(index, power_iters, seed, means);
                    args.basis = basis, args.eigen = means.eigen;
                    args.u = view_at(to_u, index), args.s = view_at(to_s, index), args.v = view_at(to_v, index);
                    return args;
                  });
  for (int64_t index = 0; !planning() && check != "ignore" && index < problem.a.size(0); ++index) {
    // NaN and Inf reach every singular value: only where one is NaN does it need looking for.
    const Tensor s_at = matrix_at(ss, index);
    if ((rank > 0 && !holds_nan(s_at)) || is_finite(matrix_at(problem.a, index))) continue;
    if (check != "nan")
      fail(op, "a holds NaN or Inf, expected finite numbers (check='nan' passes them on as NaN)");
    for (Tensor out : {matrix_at(us, index), s_at, matrix_at(vs, index)}) torch::stable::fill_(out, std::nan(""));
  }
  return {u, s, v};
}

/// The plain torch expression, for the only policy that has to ask the device.
std::tuple<Tensor, Tensor, Tensor> plain_rsvd(const Tensor& a, int64_t rank, const OptionalTensor& q0,
                                              int64_t oversample, int64_t power_iters, int64_t seed,
                                              const std::string& check, double broadening) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 8> stack{from(a),           from(rank), from(q0),    from(oversample),
                                    from(power_iters), from(seed), from(check), from(broadening)};
  call_plain("rsvd", "lrkernels has no CUDA kernel that raises, as check='raise' asks for", stack.data());
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
}

std::tuple<Tensor, Tensor, Tensor> rsvd(const Tensor& a, int64_t rank, const OptionalTensor& q0, int64_t oversample,
                                        int64_t power_iters, int64_t seed, std::string check, double broadening) {
  const char* op = "rsvd";
  check_range_finder(op, a, rank, q0, oversample, power_iters);
  check_policy(op, check);
  if (!(broadening >= 0)) fail(op, "broadening is " + std::to_string(broadening) + ", expected a number of at least 0");
  if (check == "raise" && batched_sketch_for(op, a) != nullptr)
    return plain_rsvd(a, rank, q0, oversample, power_iters, seed, check, broadening);
  return decompose(op, a, rank, q0, oversample, power_iters, seed, check);
}

Tensor low_rank_approx(const Tensor& a, int64_t rank, int64_t seed) {
  const char* op = "low_rank_approx";
  check_matrices(op, "a", a);
  check_rank(op, a, rank);
  const auto [u, s, v] = decompose(op, a, rank, std::nullopt, -1, 1, seed, "auto");
  const Tensor out = like(a);
  if (rank == 0 || a.numel() == 0) return torch::stable::fill_(out, 0);
  if (planning()) return out;
  const Tensor scaled = aten_multiply(u, torch::stable::unsqueeze(s, -2));
  const bool half = out.scalar_type() != u.scalar_type();
  const Tensor wide = half ? empty({a.sizes().begin(), a.sizes().end()}, u.scalar_type(), a) : out;
  const Tensor us = stack_of_matrices(scaled), vs = stack_of_matrices(v), outs = stack_of_matrices(wide);
  if (batched_sketch_for(op, a) != nullptr) {
    const Execution execution(op, a);
    require(batched_product(a)(matrices_of(us), matrices_of(vs).transposed(), mutable_matrices_of(outs)), op);
    return torch::stable::to(wide, a.scalar_type());
  }
  const Matrices left = matrices_of(us), right = matrices_of(vs).transposed();
  const MutableMatrices product = mutable_matrices_of(outs);
  for (int64_t index = 0; index < us.size(0); ++index) {
    const Execution execution(op, a);
    require(matrix_product(execution)(view_at(left, index), view_at(right, index), view_at(product, index)), op);
  }
  return torch::stable::to(wide, a.scalar_type());
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("orthonormalize", &kernel_or_plain<TORCH_BOX(&orthonormalize), "orthonormalize">);
  m.impl("range_finder", &kernel_or_plain<TORCH_BOX(&range_finder), "range_finder">);
  m.impl("rsvd", &kernel_or_plain<TORCH_BOX(&rsvd), "rsvd">);
  m.impl("low_rank_approx", &kernel_or_plain<TORCH_BOX(&low_rank_approx), "low_rank_approx">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("orthonormalize(Tensor a) -> (Tensor Q, Tensor R)");
  m.def(
      "range_finder(Tensor a, SymInt rank, Tensor? q0=None, *, int oversample=-1, int power_iters=1, SymInt seed=0) "
      "-> Tensor");
  m.def(
      "rsvd(Tensor a, SymInt rank, Tensor? q0=None, *, int oversample=-1, int power_iters=1, SymInt seed=0, "
      "str check=\"auto\", float broadening=0.0) -> (Tensor U, Tensor S, Tensor V)");
  m.def("low_rank_approx(Tensor a, SymInt rank, *, SymInt seed=0) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::sketch_cuda() != nullptr) lrk::binding::register_kernels(m);
}
