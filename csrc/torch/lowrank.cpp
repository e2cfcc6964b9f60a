// torch.ops.lrk.lowrank_*: schemas, registration, and each op as a few calls of the primitives. Gradients of base,
// weight and bias are plain aten in the Python formulas (ops/lowrank.py); here are those of the low-rank branch.
#include "torch/lowrank.h"

#include <tuple>

#include "torch/inspection.h"
#include "torch/lowrank_checks.h"
#include "torch/plain.h"

namespace lrk::binding {
namespace {

/// The gate as something that broadcasts against [rows, rank].
Tensor gate_matrix(const Tensor& gate) { return gate.dim() == 1 ? gate : matrix_of(gate); }

Tensor gated(const Tensor& s, const OptionalTensor& gate) {
  return gate ? aten_multiply(s, gate_matrix(*gate)) : s;
}

/// Sums a per-token gate gradient [rows, rank] to the gate's own shape and dtype.
Tensor reduce_to_gate(const Tensor& per_token, const Tensor& gate) {
  Tensor sum = per_token;
  if (gate.dim() == 1 && gate.size(0) == 1 && per_token.size(1) != 1) {
    sum = aten_sum(per_token, {0, 1});
  } else if (gate.dim() == 1) {
    sum = aten_sum(per_token, {0});
  }
  const std::vector<int64_t> sizes(gate.sizes().begin(), gate.sizes().end());
  return torch::stable::to(torch::stable::reshape(sum, sizes), gate.scalar_type());
}

/// What stands for a gradient nobody asked for.
Tensor nothing(const Tensor& tensor) { return empty({0}, tensor.scalar_type(), tensor); }

void require_saved(const char* op, bool needed, const OptionalTensor& tensor, const char* name) {
  if (needed && !tensor) fail(op, std::string(name) + " is missing, but a gradient that needs it is asked for");
}

struct Forward {
  OptionalTensor y, projected;
};

Forward linear_forward(const Tensor& x, const Tensor& down, const Tensor& up, const OptionalTensor& weight,
                       const OptionalTensor& bias, const OptionalTensor& core, const OptionalTensor& gate,
                       const OptionalTensor& base, const OptionalTensor& seed, double scale, double dropout,
                       bool save_projected) {
  const char* op = "lowrank_linear";
  const LowRankShape shape =
      check_linear(op, x, down, up, weight, bias, core, gate, base, seed, scale, dropout);
  LowRankRunner runner(op, x, down);
  const ScalarType saved_dtype = wider(x.scalar_type(), down.scalar_type());
  Forward result;
  if (save_projected) result.projected = empty(sizes_with_last(x, shape.rank), saved_dtype, x);
  const bool saved_is_s = save_projected && !gate && runner.branch_dtype() == saved_dtype;
  Tensor s = saved_is_s ? *result.projected : runner.branch(flat_rows(x), shape.rank);
  runner.project(x, down, gate, seed, 1.0, dropout, s, saved_is_s ? std::nullopt : result.projected);
  if (core) {
    const Tensor mixed = runner.branch(flat_rows(x), shape.rank);
    runner.project(s, *core, std::nullopt, std::nullopt, 1.0, 0.0, mixed);
    s = mixed;
  }
  result.y = runner.linear(x, weight, base, s, up, bias, std::nullopt, scale, 0.0, sizes_with_last(x, shape.out),
                           x.scalar_type());
  return result;
}

Tensor lowrank_linear(const Tensor& x, const Tensor& down, const Tensor& up, const OptionalTensor& weight,
                      const OptionalTensor& bias, const OptionalTensor& core, const OptionalTensor& gate,
                      const OptionalTensor& base, const OptionalTensor& seed, double scale, double dropout) {
  return *linear_forward(x, down, up, weight, bias, core, gate, base, seed, scale, dropout, false).y;
}

std::tuple<Tensor, Tensor> lowrank_linear_saving(const Tensor& x, const Tensor& down, const Tensor& up,
                                                 const OptionalTensor& weight, const OptionalTensor& bias,
                                                 const OptionalTensor& core, const OptionalTensor& gate,
                                                 const OptionalTensor& base, const OptionalTensor& seed, double scale,
                                                 double dropout) {
  Forward result = linear_forward(x, down, up, weight, bias, core, gate, base, seed, scale, dropout, true);
  return {*result.y, *result.projected};
}

/// Which gradients are wanted, bit i for the i-th of (x, down, up, core, gate).
enum Needs : int64_t { kNeedsX = 1, kNeedsDown = 2, kNeedsUp = 4, kNeedsCore = 8, kNeedsGate = 16 };

/// With p = drop(x) downT, g = gate . p, s = g coreT and y = ... + scale s upT:
///   ds = scale dy up, dup = scale dyT s, dcore = dsT g, dg = ds core, dgate = dg . p, dp = gate . dg,
///   ddown = dpT drop(x), dx = dy weight + mask . (dp down).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lowrank_linear_backward(
    const Tensor& grad, const Tensor& down, const Tensor& up, const OptionalTensor& x, const OptionalTensor& projected,
    const OptionalTensor& weight, const OptionalTensor& core, const OptionalTensor& gate, const OptionalTensor& seed,
    double scale, double dropout, int64_t needs) {
  check_linear_backward("lowrank_linear_backward", grad, down, up, x, projected, weight, core, gate, seed, dropout);
  require_saved("lowrank_linear_backward", needs & kNeedsDown, x, "x");
  require_saved("lowrank_linear_backward", needs & (kNeedsUp | kNeedsCore | kNeedsGate), projected, "projected");
  require_saved("lowrank_linear_backward", needs & kNeedsCore, core, "core");
  require_saved("lowrank_linear_backward", needs & kNeedsGate, gate, "gate");
  LowRankRunner runner("lowrank_linear_backward", grad, down);
  Tensor dx = nothing(grad), ddown = nothing(down), dup = nothing(up), dcore = nothing(core ? *core : up),
         dgate = nothing(gate ? *gate : up);
  const int64_t rows = flat_rows(grad), rank = down.size(0);

  OptionalTensor g;
  if ((needs & kNeedsUp) || (needs & kNeedsCore)) g = gated(matrix_of(*projected), gate);
  if (needs & kNeedsUp) {
    Tensor s = *g;
    if (core) {
      s = runner.branch(rows, rank);
      runner.project(*g, *core, std::nullopt, std::nullopt, 1.0, 0.0, s);
    }
    dup = like(up);
    runner.factor_grad(s, grad, std::nullopt, scale, 0.0, aten_transpose(dup));
  }
  if ((needs & ~kNeedsUp) == 0) return {dx, ddown, dup, dcore, dgate};

  Tensor ds = runner.branch(rows, rank);
  runner.project(grad, aten_transpose(up), std::nullopt, std::nullopt, scale, 0.0, ds);
  Tensor dg = ds;
  if (core) {
    if (needs & kNeedsCore) {
      dcore = like(*core);
      runner.factor_grad(ds, *g, std::nullopt, 1.0, 0.0, dcore);
    }
    dg = runner.branch(rows, rank);
    runner.project(ds, aten_transpose(*core), std::nullopt, std::nullopt, 1.0, 0.0, dg);
  }
  if (needs & kNeedsGate) dgate = reduce_to_gate(aten_multiply(dg, matrix_of(*projected)), *gate);
  if ((needs & (kNeedsX | kNeedsDown)) == 0) return {dx, ddown, dup, dcore, dgate};

  const Tensor dp = gated(dg, gate);
  if (needs & kNeedsDown) {
    ddown = like(down);
    runner.factor_grad(dp, *x, seed, 1.0, dropout, ddown);
  }
  if (needs & kNeedsX) {
    const OptionalTensor weight_columns = weight ? OptionalTensor(aten_transpose(*weight)) : std::nullopt;
    dx = runner.linear(grad, weight_columns, std::nullopt, dp, aten_transpose(down), std::nullopt, seed, 1.0, dropout,
                       sizes_with_last(grad, down.size(1)), grad.scalar_type());
  }
  return {dx, ddown, dup, dcore, dgate};
}

Tensor lowrank_project(const Tensor& x, const Tensor& down, const OptionalTensor& gate, const OptionalTensor& seed,
                       double dropout) {
  const char* op = "lowrank_project";
  check_project(op, x, down, gate, seed, dropout);
  LowRankRunner runner(op, x, down);
  const Tensor s = empty(sizes_with_last(x, down.size(0)), x.scalar_type(), x);
  runner.project(x, down, gate, seed, 1.0, dropout, s);
  return s;
}

/// dp = gate . ds, dx = mask . (dp down), ddown = dpT drop(x), dgate = ds . p; needs as above, without up and core.
std::tuple<Tensor, Tensor, Tensor> lowrank_project_backward(const Tensor& grad, const Tensor& down,
                                                            const OptionalTensor& x, const OptionalTensor& gate,
                                                            const OptionalTensor& seed, double dropout,
                                                            int64_t needs) {
  check_project_backward("lowrank_project_backward", grad, down, x, gate, seed, dropout);
  require_saved("lowrank_project_backward", needs & (kNeedsDown | kNeedsGate), x, "x");
  require_saved("lowrank_project_backward", needs & kNeedsGate, gate, "gate");
  LowRankRunner runner("lowrank_project_backward", grad, down);
  Tensor dx = nothing(grad), ddown = nothing(down), dgate = nothing(gate ? *gate : down);
  const Tensor ds = matrix_of(grad), dp = gated(ds, gate);
  if (needs & kNeedsX) {
    dx = runner.linear(std::nullopt, std::nullopt, std::nullopt, dp, aten_transpose(down), std::nullopt, seed, 1.0,
                       dropout, sizes_with_last(grad, down.size(1)), grad.scalar_type());
  }
  if (needs & kNeedsDown) {
    ddown = like(down);
    runner.factor_grad(dp, *x, seed, 1.0, dropout, ddown);
  }
  if (needs & kNeedsGate) {
    const Tensor p = runner.branch(flat_rows(grad), down.size(0));
    runner.project(*x, down, std::nullopt, seed, 1.0, dropout, p);
    dgate = reduce_to_gate(aten_multiply(ds, p), *gate);
  }
  return {dx, ddown, dgate};
}

Tensor lowrank_expand(const Tensor& s, const Tensor& up, const OptionalTensor& base, const OptionalTensor& bias,
                      double scale) {
  const char* op = "lowrank_expand";
  check_expand(op, s, up, base, bias, scale);
  LowRankRunner runner(op, s, up);
  return runner.linear(std::nullopt, std::nullopt, base, s, up, bias, std::nullopt, scale, 0.0,
                       sizes_with_last(s, up.size(0)), s.scalar_type());
}

/// ds = scale dy up (bit 0 of needs), dup = scale dyT s (bit 1).
std::tuple<Tensor, Tensor> lowrank_expand_backward(const Tensor& grad, const Tensor& up, const OptionalTensor& s,
                                                   double scale, int64_t needs) {
  check_expand_backward("lowrank_expand_backward", grad, up, s);
  require_saved("lowrank_expand_backward", needs & 2, s, "s");
  LowRankRunner runner("lowrank_expand_backward", grad, up);
  Tensor ds = nothing(grad), dup = nothing(up);
  if (needs & 1) {
    ds = empty(sizes_with_last(grad, up.size(1)), grad.scalar_type(), grad);
    runner.project(grad, aten_transpose(up), std::nullopt, std::nullopt, scale, 0.0, ds);
  }
  if (needs & 2) {
    dup = like(up);
    runner.factor_grad(*s, grad, std::nullopt, scale, 0.0, aten_transpose(dup));
  }
  return {ds, dup};
}

Tensor lowrank_merge(const Tensor& weight, const Tensor& down, const Tensor& up, const OptionalTensor& core,
                     const OptionalTensor& gate, double scale) {
  const char* op = "lowrank_merge";
  check_merge(op, weight, down, up, core, gate, scale);
  LowRankRunner runner(op, weight, down);
  const ScalarType wide = wider(weight.scalar_type(), ScalarType::Float);
  Tensor left = up;
  if (core) {
    left = empty({up.size(0), up.size(1)}, wide, up);
    runner.project(up, aten_transpose(*core), gate, std::nullopt, 1.0, 0.0, left);
  } else if (gate) {
    left = gated(torch::stable::to(up, wide), gate);
  }
  return runner.linear(std::nullopt, std::nullopt, weight, left, aten_transpose(down), std::nullopt, std::nullopt,
                       scale, 0.0, {weight.size(0), weight.size(1)}, weight.scalar_type());
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("lowrank_linear", &kernel_or_plain<TORCH_BOX(&lowrank_linear), "lowrank_linear">);
  m.impl("_lowrank_linear_saving", &kernel_or_plain<TORCH_BOX(&lowrank_linear_saving), "_lowrank_linear_saving">);
  m.impl("_lowrank_linear_backward",
         &kernel_or_plain<TORCH_BOX(&lowrank_linear_backward), "_lowrank_linear_backward">);
  m.impl("lowrank_project", &kernel_or_plain<TORCH_BOX(&lowrank_project), "lowrank_project">);
  m.impl("_lowrank_project_backward",
         &kernel_or_plain<TORCH_BOX(&lowrank_project_backward), "_lowrank_project_backward">);
  m.impl("lowrank_expand", &kernel_or_plain<TORCH_BOX(&lowrank_expand), "lowrank_expand">);
  m.impl("_lowrank_expand_backward",
         &kernel_or_plain<TORCH_BOX(&lowrank_expand_backward), "_lowrank_expand_backward">);
  m.impl("lowrank_merge", &kernel_or_plain<TORCH_BOX(&lowrank_merge), "lowrank_merge">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def(
      "lowrank_linear(Tensor x, Tensor down, Tensor up, Tensor? weight=None, Tensor? bias=None, Tensor? core=None, "
      "Tensor? gate=None, Tensor? base=None, Tensor? seed=None, *, float scale=1.0, float dropout=0.0) -> Tensor");
  m.def(
      "_lowrank_linear_saving(Tensor x, Tensor down, Tensor up, Tensor? weight=None, Tensor? bias=None, "
      "Tensor? core=None, Tensor? gate=None, Tensor? base=None, Tensor? seed=None, *, float scale=1.0, "
      "float dropout=0.0) -> (Tensor, Tensor)");
  m.def(
      "_lowrank_linear_backward(Tensor grad, Tensor down, Tensor up, Tensor? x=None, Tensor? projected=None, "
      "Tensor? weight=None, Tensor? core=None, Tensor? gate=None, Tensor? seed=None, *, float scale, float dropout, "
      "int needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "lowrank_project(Tensor x, Tensor down, Tensor? gate=None, Tensor? seed=None, *, float dropout=0.0) -> Tensor");
  m.def(
      "_lowrank_project_backward(Tensor grad, Tensor down, Tensor? x=None, Tensor? gate=None, Tensor? seed=None, *, "
      "float dropout, int needs) -> (Tensor, Tensor, Tensor)");
  m.def(
      "lowrank_expand(Tensor s, Tensor up, Tensor? base=None, Tensor? bias=None, *, float scale=1.0) -> Tensor");
  m.def(
      "_lowrank_expand_backward(Tensor grad, Tensor up, Tensor? s=None, *, float scale, int needs) "
      "-> (Tensor, Tensor)");
  m.def(
      "lowrank_merge(Tensor weight, Tensor down, Tensor up, Tensor? core=None, Tensor? gate=None, *, "
      "float scale=1.0) -> Tensor");
}

// Where nothing is registered, the plain torch expression serves (ops/_registration.py).
STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::lowrank_cuda() != nullptr) lrk::binding::register_kernels(m);
}
