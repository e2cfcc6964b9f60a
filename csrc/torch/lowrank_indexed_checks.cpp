#include "torch/lowrank_indexed_checks.h"

#include <limits>

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

void check_stack(const char* op, const char* name, const Tensor& tensor, const char* expected) {
  if (tensor.dim() != 3) fail(op, std::string(name) + " has shape " + shape_string(tensor) + ", expected " + expected);
}

bool is_index_of(const Tensor& index, const Tensor& x, int64_t rows) {
  if (index.dim() == 1 && index.size(0) == rows) return true;
  if (index.dim() + 1 != x.dim()) return false;
  for (int64_t i = 0; i < index.dim(); ++i) {
    if (index.size(i) != x.size(i)) return false;
  }
  return true;
}

void check_index(const char* op, const Tensor& index, const char* x_name, const Tensor& x) {
  const ScalarType dtype = index.scalar_type();
  const int64_t rows = flat_rows(x);
  if (dtype != ScalarType::Int && dtype != ScalarType::Long) {
    fail(op, "index has dtype " + dtype_string(dtype) + ", expected torch.int32 or torch.int64");
  }
  if (!is_index_of(index, x, rows)) {
    fail(op, "index has shape " + shape_string(index) + ", expected " + x_name + "'s leading dimensions or " + dims({rows}) +
                 " because " + x_name + " is " + shape_string(x));
  }
  if (rows > std::numeric_limits<int32_t>::max()) {
    fail(op, std::string(x_name) + " has " + std::to_string(rows) + " rows, expected fewer than 2^31");
  }
  check_device(op, "index", index, x_name, x);
}

/// One number an adapter.
void check_per_adapter(const char* op, const char* name, const Tensor& tensor, const Tensor& downs) {
  if (tensor.dim() == 1 && tensor.size(0) == downs.size(0)) return;
  fail(op, std::string(name) + " has shape " + shape_string(tensor) + ", expected " + dims({downs.size(0)}) +
               " because downs is " + shape_string(downs));
}

void check_adapters(const char* op, const OptionalTensor& ranks, const OptionalTensor& scales, const Tensor& downs,
                    const char* x_name, const Tensor& x) {
  if (ranks) {
    if (ranks->scalar_type() != ScalarType::Long) {
      fail(op, "ranks has dtype " + dtype_string(ranks->scalar_type()) + ", expected torch.int64");
    }
    check_per_adapter(op, "ranks", *ranks, downs);
    check_device(op, "ranks", *ranks, x_name, x);
  }
  if (scales) {
    check_per_adapter(op, "scales", *scales, downs);
    check_kind(op, "scales", *scales, x_name, x, true);
  }
}

template <class Index>
void check_values(const char* op, const Tensor& index, int64_t adapters) {
  const Tensor flat = torch::stable::contiguous(index);
  const Index* const values = static_cast<const Index*>(flat.const_data_ptr());
  for (int64_t row = 0; row < index.numel(); ++row) {
    if (values[row] >= -1 && int64_t(values[row]) < adapters) continue;
    fail(op, "index holds " + std::to_string(values[row]) + " for row " + std::to_string(row) +
                 ", expected -1 (no adapter) or one of the " + std::to_string(adapters) + " adapters of downs");
  }
}

}  // namespace

IndexedShape check_linear_indexed(const char* op, const Tensor& x, const Tensor& downs, const Tensor& ups,
                                  const Tensor& index, const OptionalTensor& ranks, const OptionalTensor& scales,
                                  const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& base) {
  check_defined(op, {{"x", &x}, {"downs", &downs}, {"ups", &ups}, {"index", &index}});
  check_activation(op, "x", x);
  check_stack(op, "downs", downs, "(adapters, rank, in)");
  check_stack(op, "ups", ups, "(adapters, out, rank)");
  const int64_t in = x.size(x.dim() - 1), adapters = downs.size(0), rank = downs.size(1), out = ups.size(1);
  if (downs.size(2) != in) {
    fail(op, "downs has shape " + shape_string(downs) + ", expected (adapters, rank, " + std::to_string(in) +
                 ") because x is " + shape_string(x));
  }
  if (ups.size(0) != adapters || ups.size(2) != rank) {
    fail(op, "ups has shape " + shape_string(ups) + ", expected (" + std::to_string(adapters) + ", out, " +
                 std::to_string(rank) + ") because downs is " + shape_string(downs));
  }
  check_kind(op, "downs", downs, "x", x, true);
  check_kind(op, "ups", ups, "x", x, true);
  check_index(op, index, "x", x);
  check_adapters(op, ranks, scales, downs, "x", x);
  if (weight && base) fail(op, "base and weight were both given, expected at most one of them");
  check_weight(op, weight, out, "ups", ups, x);
  check_base(op, base, out, "x", x);
  check_bias(op, bias, out, "x", x);
  return {adapters, rank, out};
}

void check_linear_indexed_backward(const char* op, const Tensor& grad, const Tensor& downs, const Tensor& ups,
                                   const Tensor& index, const OptionalTensor& ranks, const OptionalTensor& scales,
                                   const OptionalTensor& x, const OptionalTensor& projected,
                                   const OptionalTensor& weight) {
  check_defined(op, {{"grad", &grad}, {"downs", &downs}, {"ups", &ups}, {"index", &index}});
  check_activation(op, "grad", grad);
  check_stack(op, "downs", downs, "(adapters, rank, in)");
  check_stack(op, "ups", ups, "(adapters, out, rank)");
  const int64_t adapters = downs.size(0), rank = downs.size(1), in = downs.size(2), out = grad.size(grad.dim() - 1);
  if (ups.size(0) != adapters || ups.size(1) != out || ups.size(2) != rank) {
    fail(op, "ups has shape " + shape_string(ups) + ", expected " + dims({adapters, out, rank}) + " because grad is " +
                 shape_string(grad) + " and downs is " + shape_string(downs));
  }
  check_kind(op, "downs", downs, "grad", grad, true);
  check_kind(op, "ups", ups, "grad", grad, true);
  check_index(op, index, "grad", grad);
  check_adapters(op, ranks, scales, downs, "grad", grad);
  check_beside_grad(op, "x", x, grad, in, false);
  check_beside_grad(op, "projected", projected, grad, rank, true);
  if (!weight) return;
  check_matrix(op, "weight", *weight, "(out, in)");
  if (weight->size(0) != out || weight->size(1) != in)
    fail(op, "weight has shape " + shape_string(*weight) + ", expected " + dims({out, in}));
  check_kind(op, "weight", *weight, "grad", grad, false);
}

void check_index_values(const char* op, const Tensor& index, const OptionalTensor& ranks, int64_t adapters,
                        int64_t rank) {
  if (index.scalar_type() == ScalarType::Int) {
    check_values<int32_t>(op, index, adapters);
  } else {
    check_values<int64_t>(op, index, adapters);
  }
  if (!ranks) return;
  const Tensor flat = torch::stable::contiguous(*ranks);
  const int64_t* const values = static_cast<const int64_t*>(flat.const_data_ptr());
  for (int64_t adapter = 0; adapter < adapters; ++adapter) {
    if (values[adapter] >= 0 && values[adapter] <= rank) continue;
    fail(op, "ranks holds " + std::to_string(values[adapter]) + " for adapter " + std::to_string(adapter) +
                 ", expected 0 to " + std::to_string(rank) + ", the rank of downs");
  }
}

}  // namespace lrk::binding
