#include "torch/lowrank_checks.h"

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

void check_dropout(const char* op, const OptionalTensor& seed, double dropout, const Tensor& x) {
  if (!(dropout >= 0.0 && dropout <= 1.0)) {
    fail(op, "dropout is " + std::to_string(dropout) + ", expected a probability between 0 and 1");
  }
  if (dropout > 0.0 && !seed) {
    fail(op, "seed is missing, expected an int64 0-dim tensor on " + device_string(x) + " because dropout is > 0");
  }
  if (!seed) return;
  if (seed->scalar_type() != ScalarType::Long || seed->dim() != 0) {
    fail(op, "seed has dtype " + dtype_string(seed->scalar_type()) + " and shape " + shape_string(*seed) +
                 ", expected a 0-dim torch.int64 tensor");
  }
  check_device(op, "seed", *seed, "x", x);
}

void check_core(const char* op, const OptionalTensor& core, int64_t rank, const char* x_name, const Tensor& x) {
  if (!core) return;
  if (core->dim() != 2 || core->size(0) != rank || core->size(1) != rank) {
    fail(op, "core has shape " + shape_string(*core) + ", expected " + dims({rank, rank}));
  }
  check_kind(op, "core", *core, x_name, x, true);
}

void check_gate(const char* op, const OptionalTensor& gate, int64_t rank, const char* x_name, const Tensor& x,
                bool per_token) {
  if (!gate) return;
  const bool vector = gate->dim() == 1 && (gate->size(0) == 1 || gate->size(0) == rank);
  const bool token = per_token && gate->dim() >= 1 && gate->size(gate->dim() - 1) == rank &&
                     leading_dims_equal(*gate, x);
  if (!vector && !token) {
    fail(op, "gate has shape " + shape_string(*gate) + ", expected (1,), " + dims({rank}) +
                 (per_token ? " or x's leading dimensions with rank " + std::to_string(rank) + " last" : "") +
                 " because " + x_name + " is " + shape_string(x));
  }
  check_kind(op, "gate", *gate, x_name, x, true);
}

}  // namespace

LowRankShape check_linear(const char* op, const Tensor& x, const Tensor& down, const Tensor& up,
                          const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& core,
                          const OptionalTensor& gate, const OptionalTensor& base, const OptionalTensor& seed,
                          double scale, double dropout) {
  check_defined(op, {{"x", &x}, {"down", &down}, {"up", &up}});
  check_activation(op, "x", x);
  const LowRankShape shape = check_factors(op, "x", x, down, up);
  if (weight && base) fail(op, "base and weight were both given, expected at most one of them");
  check_weight(op, weight, shape.out, "up", up, x);
  check_base(op, base, shape.out, "x", x);
  check_bias(op, bias, shape.out, "x", x);
  check_core(op, core, shape.rank, "x", x);
  check_gate(op, gate, shape.rank, "x", x, true);
  check_scale(op, scale, "x", x);
  check_dropout(op, seed, dropout, x);
  return shape;
}

void check_project(const char* op, const Tensor& x, const Tensor& down, const OptionalTensor& gate,
                   const OptionalTensor& seed, double dropout) {
  check_defined(op, {{"x", &x}, {"down", &down}});
  check_activation(op, "x", x);
  check_matrix(op, "down", down, "(rank, in)");
  if (down.size(1) != x.size(x.dim() - 1)) {
    fail(op, "down has shape " + shape_string(down) + ", expected (rank, " + std::to_string(x.size(x.dim() - 1)) +
                 ") because x is " + shape_string(x));
  }
  check_kind(op, "down", down, "x", x, true);
  check_gate(op, gate, down.size(0), "x", x, true);
  check_dropout(op, seed, dropout, x);
}

void check_expand(const char* op, const Tensor& s, const Tensor& up, const OptionalTensor& base,
                  const OptionalTensor& bias, double scale) {
  check_defined(op, {{"s", &s}, {"up", &up}});
  check_activation(op, "s", s);
  check_matrix(op, "up", up, "(out, rank)");
  if (up.size(1) != s.size(s.dim() - 1)) {
    fail(op, "up has shape " + shape_string(up) + ", expected (out, " + std::to_string(s.size(s.dim() - 1)) +
                 ") because s is " + shape_string(s));
  }
  check_kind(op, "up", up, "s", s, true);
  check_base(op, base, up.size(0), "s", s);
  check_bias(op, bias, up.size(0), "s", s);
  check_scale(op, scale, "s", s);
}

void check_merge(const char* op, const Tensor& weight, const Tensor& down, const Tensor& up,
                 const OptionalTensor& core, const OptionalTensor& gate, double scale) {
  check_defined(op, {{"weight", &weight}, {"down", &down}, {"up", &up}});
  check_activation(op, "weight", weight);
  check_matrix(op, "weight", weight, "(out, in)");
  const LowRankShape shape = check_factors(op, "weight", weight, down, up);
  if (shape.out != weight.size(0)) {
    fail(op, "up has shape " + shape_string(up) + ", expected (" + std::to_string(weight.size(0)) +
                 ", rank) because weight is " + shape_string(weight));
  }
  check_core(op, core, shape.rank, "weight", weight);
  check_gate(op, gate, shape.rank, "weight", weight, false);
  check_scale(op, scale, "weight", weight);
}

void check_linear_backward(const char* op, const Tensor& grad, const Tensor& down, const Tensor& up,
                           const OptionalTensor& x, const OptionalTensor& projected, const OptionalTensor& weight,
                           const OptionalTensor& core, const OptionalTensor& gate, const OptionalTensor& seed,
                           double dropout) {
  check_defined(op, {{"grad", &grad}, {"down", &down}, {"up", &up}});
  check_activation(op, "grad", grad);
  check_matrix(op, "down", down, "(rank, in)");
  check_matrix(op, "up", up, "(out, rank)");
  const int64_t in = down.size(1), rank = down.size(0), out = grad.size(grad.dim() - 1);
  if (up.size(0) != out || up.size(1) != rank) {
    fail(op, "up has shape " + shape_string(up) + ", expected " + dims({out, rank}) + " because grad is " +
                 shape_string(grad) + " and down is " + shape_string(down));
  }
  check_kind(op, "down", down, "grad", grad, true);
  check_kind(op, "up", up, "grad", grad, true);
  check_beside_grad(op, "x", x, grad, in, false);
  check_beside_grad(op, "projected", projected, grad, rank, true);
  if (weight) {
    check_matrix(op, "weight", *weight, "(out, in)");
    if (weight->size(0) != out || weight->size(1) != in)
      fail(op, "weight has shape " + shape_string(*weight) + ", expected " + dims({out, in}));
    check_kind(op, "weight", *weight, "grad", grad, false);
  }
  check_core(op, core, rank, "grad", grad);
  check_gate(op, gate, rank, "grad", grad, true);
  check_dropout(op, seed, dropout, grad);
}

void check_project_backward(const char* op, const Tensor& grad, const Tensor& down, const OptionalTensor& x,
                            const OptionalTensor& gate, const OptionalTensor& seed, double dropout) {
  check_defined(op, {{"grad", &grad}, {"down", &down}});
  check_activation(op, "grad", grad);
  check_matrix(op, "down", down, "(rank, in)");
  if (down.size(0) != grad.size(grad.dim() - 1))
    fail(op, "down has shape " + shape_string(down) + ", expected (rank, in) because grad is " + shape_string(grad));
  check_kind(op, "down", down, "grad", grad, true);
  check_beside_grad(op, "x", x, grad, down.size(1), false);
  check_gate(op, gate, down.size(0), "grad", grad, true);
  check_dropout(op, seed, dropout, grad);
}

void check_expand_backward(const char* op, const Tensor& grad, const Tensor& up, const OptionalTensor& s) {
  check_defined(op, {{"grad", &grad}, {"up", &up}});
  check_activation(op, "grad", grad);
  check_matrix(op, "up", up, "(out, rank)");
  if (up.size(0) != grad.size(grad.dim() - 1))
    fail(op, "up has shape " + shape_string(up) + ", expected (out, rank) because grad is " + shape_string(grad));
  check_kind(op, "up", up, "grad", grad, true);
  check_beside_grad(op, "s", s, grad, up.size(1), false);
}

}  // namespace lrk::binding
