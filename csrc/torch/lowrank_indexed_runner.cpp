#include "torch/lowrank_indexed_runner.h"

#include "torch/inspection.h"

namespace lrk::binding {
namespace {

/// A 3-D tensor as a stack of matrices.
template <class Stack, class Pointer>
Stack stack_of(const Tensor& tensor, Pointer data) {
  Stack stack;
  stack.first = {data, kernel_dtype(tensor.scalar_type()), tensor.size(1), tensor.size(2), tensor.stride(1),
                 tensor.stride(2)};
  stack.count = tensor.size(0), stack.stack_stride = tensor.stride(0);
  return stack;
}

/// Numbers, one an adapter, as a column.
MatrixView column_view(const OptionalTensor& numbers) {
  if (!numbers) return {};
  return {numbers->const_data_ptr(), kernel_dtype(numbers->scalar_type()), numbers->size(0), 1, numbers->stride(0), 1};
}

ScalarType branch_dtype_of(const Tensor& on, const Tensor& downs, const Tensor& ups, bool any_layout) {
  if (!any_layout) return on.scalar_type();
  return wider(wider(wider(on.scalar_type(), downs.scalar_type()), ups.scalar_type()), ScalarType::Float);
}

}  // namespace

IndexedRunner::IndexedRunner(const char* op, const Tensor& on, const Tensor& downs, const Tensor& ups,
                             const Tensor& index, const OptionalTensor& ranks)
    : op_(op),
      on_(on),
      backend_(backend_for(op, on, lowrank_indexed_cpu(), lowrank_indexed_cuda(), lowrank_indexed_cuda_emulated())),
      any_layout_(&backend_ == &lowrank_indexed_cpu()),
      branch_dtype_(branch_dtype_of(on, downs, ups, any_layout_)),
      execution_(op, on),
      index_(torch::stable::contiguous(index)) {
  if (ranks) ranks_ = torch::stable::contiguous(*ranks);
  route_.index = index_.const_data_ptr(), route_.index_is_int64 = index.scalar_type() == ScalarType::Long;
  if (ranks_) route_.ranks = static_cast<const int64_t*>(ranks_->const_data_ptr());
  route_.rows = index.numel(), route_.adapters = downs.size(0), route_.rank = downs.size(1);
}

const Routing& IndexedRunner::routing() {
  if (!routing_) {
    routing_.emplace();
    require(backend_.route(route_, execution_.context(), *routing_), op_);
  }
  return *routing_;
}

Tensor IndexedRunner::row_operand(const Tensor& tensor) const { return binding::row_operand(tensor, any_layout_); }

Tensor IndexedRunner::stack_operand(const Tensor& stack) const {
  if (any_layout_) return stack;
  const Tensor rounded = stack.scalar_type() == on_.scalar_type() ? stack : torch::stable::to(stack, on_.scalar_type());
  const bool unit = rounded.stride(1) == 1 || rounded.stride(2) == 1 || rounded.numel() == 0;
  return unit ? rounded : torch::stable::contiguous(rounded);
}

void IndexedRunner::project(const Tensor& x, const Tensor& downs, const OptionalTensor& scales, const Tensor& s,
                            const OptionalTensor& projected) {
  const Tensor rows = row_operand(x), stack = stack_operand(downs);
  IndexedProjectArgs args;
  args.x = matrix_view(rows), args.downs = stack_of<StackView>(stack, stack.const_data_ptr());
  args.scales = column_view(scales);
  args.s = mutable_view(s);
  if (projected) args.projected = mutable_view(*projected);
  if (planning()) return add_plan("project", backend_.plan_project(args, route_, execution_.context()));
  require(backend_.project(args, routing(), execution_.context()), op_);
}

Tensor IndexedRunner::linear(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& base, const Tensor& s,
                             const Tensor& ups, const OptionalTensor& bias, const std::vector<int64_t>& sizes) {
  const Tensor stack = stack_operand(ups);
  IndexedLinearArgs args;
  args.s = matrix_view(s), args.ups = stack_of<StackView>(stack, stack.const_data_ptr());
  args.bias = optional_view(bias);
  // The backend sees y before it exists: its sizes and dtype decide the path.
  args.y.dtype = kernel_dtype(x.scalar_type()), args.y.rows = route_.rows;
  args.y.cols = args.y.row_stride = args.ups.first.rows, args.y.col_stride = 1;
  OptionalTensor x_rows, weight_matrix, base_rows, y;
  if (base) base_rows = row_operand(*base);
  if (weight) {
    x_rows = row_operand(x);
    weight_matrix = weight->stride(0) == 1 || weight->stride(1) == 1 ? *weight : torch::stable::contiguous(*weight);
    args.x = matrix_view(*x_rows), args.weight = matrix_view(*weight_matrix);
    if (backend_.dense_apart(args, execution_.context())) {
      args.x = args.weight = MatrixView{};
      base_rows = LowRankRunner(op_, on_, ups).dense(x, *weight, sizes);
      if (base_rows->scalar_type() == x.scalar_type()) y = base_rows;
    }
  }
  if (base_rows) args.base = matrix_view(*base_rows);
  if (!y) y = empty(sizes, x.scalar_type(), on_);
  args.y = mutable_view(*y);
  if (planning()) {
    add_plan("linear", backend_.plan_linear(args, route_, execution_.context()));
  } else {
    require(backend_.linear(args, routing(), execution_.context()), op_);
  }
  return *y;
}

void IndexedRunner::factor_grad(const Tensor& s, const Tensor& x, const OptionalTensor& scales, const Tensor& grads) {
  const bool same = any_layout_ || s.scalar_type() == on_.scalar_type();
  const Tensor rows = row_operand(x), branch = same ? s : torch::stable::to(s, on_.scalar_type());
  IndexedFactorGradArgs args;
  args.s = matrix_view(branch), args.x = matrix_view(rows), args.scales = column_view(scales);
  args.grads = stack_of<MutableStackView>(grads, grads.mutable_data_ptr());
  if (planning()) return add_plan("factor_grad", backend_.plan_factor_grad(args, route_, execution_.context()));
  require(backend_.factor_grad(args, routing(), execution_.context()), op_);
}

void IndexedRunner::sum_by_adapter(const Tensor& values, const Tensor& sums) {
  const Tensor one = empty({1}, values.scalar_type(), values);
  torch::stable::fill_(one, 1.0);
  IndexedFactorGradArgs args;
  args.s = matrix_view(values).transposed();
  args.x = {one.const_data_ptr(), args.s.dtype, route_.rows, 1, 0, 1};
  args.grads.first = {sums.mutable_data_ptr(), args.s.dtype, 1, 1, 1, 1};
  args.grads.count = route_.adapters, args.grads.stack_stride = 1;
  if (planning()) return add_plan("sum_by_adapter", backend_.plan_factor_grad(args, route_, execution_.context()));
  require(backend_.factor_grad(args, routing(), execution_.context()), op_);
}

}  // namespace lrk::binding
