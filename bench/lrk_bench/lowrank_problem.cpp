#include "lowrank_problem.h"

#include <cmath>
#include <cstring>

#include "element.h"

namespace lrk::bench {
namespace {

constexpr int64_t kDropoutSeed = 20240607;

DType wider(DType a, DType b) { return size_of(a) >= size_of(b) ? a : b; }

}  // namespace

LowRankProblem::LowRankProblem(const Case& c_, Device& device_) : Problem(c_, device_) {
  // s: float (or wider) where the torch op keeps it so, and the width of the activations where they are an operand.
  const DType branch = device.keeps_branch_wide() ? wider(wider(c.dtype, c.factor_dtype), DType::kFloat32)
                                                  : wider(c.dtype, c.factor_dtype);
  uint64_t seed_of_next = 1;
  const auto operand = [&](std::unique_ptr<Matrix>& matrix, int64_t rows, int64_t cols, DType dtype, double deviation) {
    matrix = std::make_unique<Matrix>(device, rows, cols, dtype);
    matrix->fill(seed_of_next++, deviation);
  };
  const auto result = [&](std::unique_ptr<Matrix>& matrix, int64_t rows, int64_t cols, DType dtype) {
    matrix = std::make_unique<Matrix>(device, rows, cols, dtype);
  };
  const Operation op = c.operation;
  const bool gradient = op == Operation::kFactorGrad || op == Operation::kBackward;
  const double per_k = 1 / std::sqrt(double(std::max<int64_t>(c.k, 1)));
  const double per_rank = 1 / std::sqrt(double(std::max<int64_t>(c.rank, 1)));
  if (op != Operation::kExpand) operand(x, c.m, c.k, c.dtype, 1);
  if (op == Operation::kLinear || op == Operation::kBackward) operand(weight, c.n, c.k, c.dtype, per_k);
  if (op != Operation::kExpand && op != Operation::kFactorGrad) operand(down, c.rank, c.k, c.factor_dtype, per_k);
  if (op != Operation::kProject) operand(up, c.n, c.rank, c.factor_dtype, per_rank);
  if (c.bias) operand(bias, 1, c.n, c.factor_dtype, 1);
  if (op == Operation::kExpand) operand(base, c.m, c.n, c.dtype, 1);
  if (gradient) operand(dy, c.m, c.n, c.dtype, 1);

  if (gradient) {
    operand(s, c.m, c.rank, branch, 1);
    result(ds, c.m, c.rank, branch);
    result(ddown, c.rank, c.k, c.factor_dtype);
    result(dup, c.n, c.rank, c.factor_dtype);
    if (op == Operation::kBackward) result(dx, c.m, c.k, c.dtype);
  } else if (op == Operation::kExpand) {
    operand(s, c.m, c.rank, c.dtype, 1);
  } else {
    result(s, c.m, c.rank, op == Operation::kProject ? c.dtype : branch);
  }
  if (op == Operation::kLinear || op == Operation::kExpand) result(y, c.m, c.n, c.dtype);
  if (op == Operation::kLinear) result(dense, c.m, c.n, c.dtype);
  if (op == Operation::kBackward) result(dense, c.m, c.k, c.dtype);

  seed = std::make_unique<Matrix>(device, 1, 1, DType::kFloat64);
  device.upload(seed->view().data, &kDropoutSeed, sizeof kDropoutSeed);
}

Dropout LowRankProblem::dropout() const {
  return {c.dropout, c.dropout > 0 ? static_cast<const int64_t*>(seed->view().data) : nullptr};
}

Status LowRankProblem::project(const MatrixView& rows, const MatrixView& factor, double factor_scale, const Dropout& drop,
                        const MutableMatrixView& to) const {
  ProjectArgs args;
  args.x = rows, args.down = factor, args.scale = factor_scale, args.dropout = drop, args.s = to;
  return device.lowrank().project(args, device.context());
}

Status LowRankProblem::run_fused() const {
  device.start_call();
  const LowRankBackend& backend = device.lowrank();
  const Context& context = device.context();
  LinearArgs linear;
  switch (c.operation) {
    case Operation::kProject: return project(x->view(), down->view(), 1, dropout(), s->view());
    case Operation::kExpand:
      linear.base = base->view(), linear.s = s->view(), linear.up = up->view(), linear.bias = bias_view();
      linear.scale = scale, linear.y = y->view();
      return backend.linear(linear, context);
    case Operation::kLinear:
      if (Status status = project(x->view(), down->view(), 1, dropout(), s->view()); !status.ok()) return status;
      linear.x = x->view(), linear.weight = weight->view(), linear.s = s->view(), linear.up = up->view();
      linear.bias = bias_view(), linear.scale = scale, linear.y = y->view();
      return backend.linear(linear, context);
    default: break;  // the gradients
  }
  if (Status status = project(dy->view(), MatrixView(up->view()).transposed(), scale, {}, ds->view()); !status.ok())
    return status;
  if (c.operation == Operation::kBackward) {
    linear.x = dy->view(), linear.weight = MatrixView(weight->view()).transposed();
    linear.s = ds->view(), linear.up = MatrixView(down->view()).transposed();
    linear.dropout = dropout(), linear.y = dx->view();
    if (Status status = backend.linear(linear, context); !status.ok()) return status;
  }
  FactorGradArgs for_down{ds->view(), x->view(), 1, dropout(), ddown->view()};
  if (Status status = backend.factor_grad(for_down, context); !status.ok()) return status;
  return backend.factor_grad({s->view(), dy->view(), scale, {}, dup->view().transposed()}, context);
}

Status LowRankProblem::run_unfused() const {
  device.start_call();
  const LowRankBackend& backend = device.lowrank();
  const Context& context = device.context();
  LinearArgs product, added;
  product.y = dense->view(), added.base = dense->view();
  if (c.operation == Operation::kLinear) {
    product.x = x->view(), product.weight = weight->view(), product.bias = bias_view();
    added.s = s->view(), added.up = up->view(), added.scale = scale, added.y = y->view();
    if (Status status = backend.linear(product, context); !status.ok()) return status;
    if (Status status = project(x->view(), down->view(), 1, dropout(), s->view()); !status.ok()) return status;
    return backend.linear(added, context);
  }
  product.x = dy->view(), product.weight = MatrixView(weight->view()).transposed();
  added.s = ds->view(), added.up = MatrixView(down->view()).transposed();
  added.dropout = dropout(), added.y = dx->view();
  if (Status status = project(dy->view(), MatrixView(up->view()).transposed(), scale, {}, ds->view()); !status.ok())
    return status;
  if (Status status = backend.linear(product, context); !status.ok()) return status;
  if (Status status = backend.linear(added, context); !status.ok()) return status;
  FactorGradArgs for_down{ds->view(), x->view(), 1, dropout(), ddown->view()};
  if (Status status = backend.factor_grad(for_down, context); !status.ok()) return status;
  return backend.factor_grad({s->view(), dy->view(), scale, {}, dup->view().transposed()}, context);
}

std::string LowRankProblem::library_plan() const {
  if (!weight) return {};
  LinearArgs args;
  const bool forward = c.operation == Operation::kLinear;
  args.x = forward ? x->view() : dy->view();
  args.weight = forward ? MatrixView(weight->view()) : MatrixView(weight->view()).transposed();
  args.s = forward ? s->view() : ds->view();
  args.up = forward ? MatrixView(up->view()) : MatrixView(down->view()).transposed();
  args.y = forward ? y->view() : dx->view();
  const Plan plan = device.lowrank().plan_linear(args, device.context());
  return plan.library_gemm ? plan.kernel : "";
}

}  // namespace lrk::bench
