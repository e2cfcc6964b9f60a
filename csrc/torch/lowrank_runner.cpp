#include "torch/inspection.h"
#include "torch/lowrank.h"

namespace lrk::binding {
namespace {

Dropout dropout_of(const OptionalTensor& seed, double probability) {
  return {probability, probability > 0.0 ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr};
}

}  // namespace

LowRankRunner::LowRankRunner(const char* op, const Tensor& on, const Tensor& factor)
    : op_(op),
      on_(on),
      backend_(backend_for(op, on, lowrank_cpu(), lowrank_cuda(), lowrank_cuda_emulated())),
      any_layout_(&backend_ == &lowrank_cpu()),
      branch_dtype_(any_layout_ ? wider(wider(on.scalar_type(), factor.scalar_type()), ScalarType::Float)
                                : wider(on.scalar_type(), factor.scalar_type())),
      execution_(op, on) {}

Tensor LowRankRunner::row_operand(const Tensor& tensor) const { return binding::row_operand(tensor, any_layout_); }

Tensor LowRankRunner::factor_operand(const Tensor& matrix) const {
  const bool unit = matrix.stride(0) == 1 || matrix.stride(1) == 1 || matrix.numel() == 0;
  return any_layout_ || unit ? matrix : torch::stable::contiguous(matrix);
}

Tensor LowRankRunner::no_narrower(const Tensor& factor, const Tensor& x) const {
  const bool narrower = wider(factor.scalar_type(), x.scalar_type()) != factor.scalar_type();
  return any_layout_ || !narrower ? factor : torch::stable::to(factor, x.scalar_type());
}

void LowRankRunner::library_product(const Tensor& out, const OptionalTensor& added, const Tensor& a, const Tensor& b,
                                    double scale) {
  record_dispatch("library_gemm");
  aten_addmm_cpu(out, added, a, b, scale);
}

void LowRankRunner::project(const Tensor& x, const Tensor& down, const OptionalTensor& gate, const OptionalTensor& seed,
                            double scale, double dropout, const Tensor& s, const OptionalTensor& projected) {
  const Tensor rows = row_operand(x), factor = no_narrower(factor_operand(down), x);
  ProjectArgs args;
  args.x = matrix_view(rows);
  args.down = matrix_view(factor);
  args.scale = scale;
  args.dropout = dropout_of(seed, dropout);
  args.s = mutable_view(s);
  if (projected) args.projected = mutable_view(*projected);
  OptionalTensor gate_rows;
  if (gate) {
    // A gate of one element, one row, or one row a token: always [rows, rank], by zero strides where it is shared.
    gate_rows = collapsible(*gate);
    args.gate = matrix_view(*gate_rows);
    if (args.gate.cols != args.down.rows) args.gate.cols = args.down.rows, args.gate.col_stride = 0;
    if (gate->dim() == 1) args.gate.rows = args.x.rows, args.gate.row_stride = 0;
  }
  if (!planning() && backend_.library_project(args, execution_.context())) {
    return library_product(matrix_of(s), std::nullopt, matrix_of(rows), aten_transpose(factor), scale);
  }
  run(op_, "project", backend_.plan_project, backend_.project, args, execution_.context());
}

Tensor LowRankRunner::linear(const OptionalTensor& x, const OptionalTensor& weight, const OptionalTensor& base,
                             const Tensor& s, const Tensor& up, const OptionalTensor& bias, const OptionalTensor& seed,
                             double scale, double dropout, std::vector<int64_t> sizes, ScalarType dtype) {
  const Tensor branch = row_operand(s), factor = factor_operand(up);
  LinearArgs args;
  args.s = matrix_view(branch);
  args.up = matrix_view(factor);
  args.scale = scale;
  args.dropout = dropout_of(seed, dropout);
  // Kernels see y before it exists: its sizes and dtype decide the path.
  args.y.dtype = kernel_dtype(dtype);
  args.y.rows = args.s.rows, args.y.cols = args.up.rows, args.y.row_stride = args.up.rows, args.y.col_stride = 1;
  if (bias) args.bias = matrix_view(*bias);

  OptionalTensor x_rows, weight_rows, base_rows;
  bool library = false;
  if (weight) {
    // The library takes any strides, so nothing is copied before it is known who computes.
    x_rows = collapsible(*x), weight_rows = *weight;
    args.x = matrix_view(*x_rows), args.weight = matrix_view(*weight_rows);
    library = backend_.library_linear(args, execution_.context());
    if (!library) {
      x_rows = row_operand(*x), weight_rows = factor_operand(*weight);
      args.x = matrix_view(*x_rows), args.weight = matrix_view(*weight_rows);
    }
  }
  if (base) {
    base_rows = row_operand(*base);
    args.base = matrix_view(*base_rows);
  }

  OptionalTensor y, left_bias = bias;
  if (library) {
    const bool bias_in_gemm = bias && bias->scalar_type() == dtype;
    if (planning()) {
      add_plan("linear", backend_.plan_linear(args, execution_.context()));
      y = empty(sizes, dtype, on_);
    } else {
      record_dispatch("library_gemm");
      y = torch::stable::contiguous(aten_linear(*x, *weight, bias_in_gemm ? bias : OptionalTensor{}));
    }
    args.x = args.weight = MatrixView{};
    if (bias_in_gemm) args.bias = MatrixView{}, left_bias = std::nullopt;
    base_rows = *y;
    args.base = matrix_view(*y);
    if (args.s.cols == 0 && !args.bias.present()) return *y;
  }
  if (!y) y = empty(std::move(sizes), dtype, on_);
  args.y = mutable_view(*y);
  if (!planning() && !args.weight.present() && backend_.library_linear(args, execution_.context())) {
    // Added in place, `added` has to be the very tensor: torch would copy another view of y onto y.
    const Tensor out = matrix_of(*y);
    const OptionalTensor added = library ? out : base_rows ? OptionalTensor(matrix_of(*base_rows)) : left_bias;
    library_product(out, added, matrix_of(branch), aten_transpose(factor), scale);
    return *y;
  }
  run(op_, "linear", backend_.plan_linear, backend_.linear, args, execution_.context());
  return *y;
}

Tensor LowRankRunner::dense(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& sizes) {
  const Tensor rows = row_operand(x), factor = factor_operand(weight);
  LinearArgs args;
  args.x = matrix_view(rows), args.weight = matrix_view(factor);
  args.s.rows = args.x.rows, args.up.rows = args.weight.rows;  // of rank 0
  args.s.dtype = args.up.dtype = args.y.dtype = args.x.dtype;
  args.y.rows = args.x.rows, args.y.cols = args.y.row_stride = args.weight.rows, args.y.col_stride = 1;
  if (planning()) {
    add_plan("linear", backend_.plan_linear(args, execution_.context()));
    return empty(sizes, x.scalar_type(), on_);
  }
  if (backend_.library_linear(args, execution_.context())) {
    record_dispatch("library_gemm");
    return torch::stable::contiguous(aten_linear(x, weight, std::nullopt));
  }
  const Tensor y = empty(sizes, any_layout_ ? wider(x.scalar_type(), ScalarType::Float) : x.scalar_type(), on_);
  args.y = mutable_view(y);
  require(backend_.linear(args, execution_.context()), op_);
  return y;
}

void LowRankRunner::factor_grad(const Tensor& s, const Tensor& x, const OptionalTensor& seed, double scale,
                                double dropout, const Tensor& grad) {
  const Tensor branch = no_narrower(row_operand(s), x), rows = row_operand(x);
  FactorGradArgs args;
  args.s = matrix_view(branch);
  args.x = matrix_view(rows);
  args.scale = scale;
  args.dropout = dropout_of(seed, dropout);
  args.grad = mutable_view(grad);
  if (!planning() && backend_.library_factor_grad(args, execution_.context())) {
    return library_product(grad, std::nullopt, aten_transpose(matrix_of(branch)), matrix_of(rows), scale);
  }
  run(op_, "factor_grad", backend_.plan_factor_grad, backend_.factor_grad, args, execution_.context());
}

void LowRankRunner::product(const Tensor& out, const OptionalTensor& added, const Tensor& a, const Tensor& b,
                            double scale) {
  if (!added && !any_layout_) {
    // A sum of its own, which the CUDA kernel cuts where the output has too few tiles for the device.
    return project(a, aten_transpose(b), std::nullopt, std::nullopt, scale, 0.0, out);
  }
  LinearArgs args;
  args.s = matrix_view(a), args.up = matrix_view(b).transposed();
  args.scale = scale;
  args.y = mutable_view(out);
  if (added) args.base = matrix_view(*added);
  if (!planning() && backend_.library_linear(args, execution_.context()))
    return library_product(out, added, a, b, scale);
  run(op_, "linear", backend_.plan_linear, backend_.linear, args, execution_.context());
}

}  // namespace lrk::binding
