#include "torch/sparse24_checks.h"

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

void check_groups(const char* op, const char* name, const Tensor& weight, const char* expected) {
  check_activation(op, name, weight);
  check_matrix(op, name, weight, expected);
  if (weight.size(1) % 4 != 0)
    fail(op, std::string(name) + " has shape " + shape_string(weight) + ", expected in to be a multiple of 4");
}

void check_mask(const char* op, const Tensor& weight, const Tensor& mask) {
  if (mask.scalar_type() != ScalarType::Bool)
    fail(op, "mask has dtype " + dtype_string(mask.scalar_type()) + ", expected torch.bool");
  if (mask.dim() != 2 || mask.size(0) != weight.size(0) || mask.size(1) != weight.size(1))
    fail(op, "mask has shape " + shape_string(mask) + ", expected " + shape_string(weight) + ", the shape of weight");
  check_device(op, "mask", mask, "weight", weight);
}

void check_branch(const char* op, const char* x_name, const Tensor& x, const OptionalTensor& down,
                  const OptionalTensor& up, int64_t in, int64_t out) {
  if (!down && !up) return;
  if (!down || !up)
    fail(op, std::string(down ? "up" : "down") + " is missing, expected both of down and up, or neither");
  check_matrix(op, "down", *down, "(rank, in)");
  check_matrix(op, "up", *up, "(out, rank)");
  const int64_t rank = down->size(0);
  if (down->size(1) != in)
    fail(op, "down has shape " + shape_string(*down) + ", expected (rank, " + std::to_string(in) + ")");
  if (up->size(0) != out || up->size(1) != rank)
    fail(op, "up has shape " + shape_string(*up) + ", expected " + dims({out, rank}) + " because down is " +
                 shape_string(*down));
  check_kind(op, "down", *down, x_name, x, true);
  check_kind(op, "up", *up, x_name, x, true);
}

void check_packed(const char* op, const OptionalTensor& packed, int64_t packed_bytes, const Tensor& values) {
  if (!packed) return;
  if (packed->scalar_type() != ScalarType::Byte || packed->dim() != 1)
    fail(op, "packed has dtype " + dtype_string(packed->scalar_type()) + " and shape " + shape_string(*packed) +
                 ", expected what sparse24_pack returns");
  if (packed->numel() > 1 && packed->stride(0) != 1)
    fail(op, "packed has stride " + std::to_string(packed->stride(0)) + ", expected what sparse24_pack returns");
  check_device(op, "packed", *packed, "values", values);
  if (packed->numel() != packed_bytes)
    fail(op, "packed has " + std::to_string(packed->numel()) + " bytes, expected " + std::to_string(packed_bytes) +
                 ": pack these values, in this dtype and on this device");
  if (reinterpret_cast<uintptr_t>(packed->const_data_ptr()) % sizeof(int64_t) != 0)
    fail(op, "packed starts at an odd address, expected what sparse24_pack returns");
}

}  // namespace

Sparse24Mask check_sparse24_mask(const char* op, const Tensor& weight, bool transposable, const std::string& method) {
  check_defined(op, {{"weight", &weight}});
  const bool greedy = method == "greedy", pruned = method == "double_pruned";
  if (method != "exact" && !greedy && !pruned)
    fail(op, "method is '" + method + "', expected 'exact', 'greedy' or 'double_pruned'");
  if (!transposable && method != "exact") fail(op, "method is '" + method + "', expected 'exact' unless transposable");
  check_groups(op, "weight", weight, "(out, in)");
  if (transposable && weight.size(0) % 4 != 0)
    fail(op, "weight has shape " + shape_string(weight) + ", expected out to be a multiple of 4 because the mask is "
             "transposable");
  if (!transposable) return Sparse24Mask::kRows;
  return greedy ? Sparse24Mask::kGreedy : pruned ? Sparse24Mask::kDoublePruned : Sparse24Mask::kTransposable;
}

void check_sparse24_compress(const char* op, const Tensor& weight, const Tensor& mask) {
  check_defined(op, {{"weight", &weight}, {"mask", &mask}});
  check_groups(op, "weight", weight, "(out, in)");
  check_mask(op, weight, mask);
}

void check_sparse24_format(const char* op, const Tensor& values, const Tensor& bitmask) {
  check_defined(op, {{"values", &values}, {"bitmask", &bitmask}});
  check_activation(op, "values", values);
  check_matrix(op, "values", values, "(out, in / 2)");
  if (values.size(1) % 2 != 0)
    fail(op, "values has shape " + shape_string(values) + ", expected in / 2 columns, where in is a multiple of 4");
  if (bitmask.scalar_type() != ScalarType::Byte)
    fail(op, "bitmask has dtype " + dtype_string(bitmask.scalar_type()) + ", expected torch.uint8");
  const int64_t bytes = (2 * values.size(1) + 7) / 8;
  if (bitmask.dim() != 2 || bitmask.size(0) != values.size(0) || bitmask.size(1) != bytes)
    fail(op, "bitmask has shape " + shape_string(bitmask) + ", expected " + dims({values.size(0), bytes}) +
                 " because values is " + shape_string(values));
  check_device(op, "bitmask", bitmask, "values", values);
}

void check_sparse24_linear(const char* op, const Tensor& x, const Tensor& values, const Tensor& bitmask,
                           const OptionalTensor& packed, int64_t packed_bytes, const OptionalTensor& down,
                           const OptionalTensor& up, const OptionalTensor& bias, double scale) {
  check_defined(op, {{"x", &x}});
  check_activation(op, "x", x);
  check_sparse24_format(op, values, bitmask);
  const int64_t in = 2 * values.size(1);
  if (x.size(x.dim() - 1) != in)
    fail(op, "values has shape " + shape_string(values) + ", expected (out, " +
                 std::to_string(x.size(x.dim() - 1) / 2) + ") because x is " + shape_string(x));
  check_kind(op, "values", values, "x", x, false);
  check_packed(op, packed, packed_bytes, values);
  check_branch(op, "x", x, down, up, in, values.size(0));
  check_bias(op, bias, values.size(0), "x", x);
  check_scale(op, scale, "x", x);
}

void check_sparse24_linear_ste(const char* op, const Tensor& x, const Tensor& weight, const Tensor& mask,
                               const OptionalTensor& down, const OptionalTensor& up, const OptionalTensor& bias,
                               double scale) {
  check_defined(op, {{"x", &x}, {"weight", &weight}, {"mask", &mask}});
  check_activation(op, "x", x);
  check_groups(op, "weight", weight, "(out, in)");
  if (x.size(x.dim() - 1) != weight.size(1))
    fail(op, "weight has shape " + shape_string(weight) + ", expected (out, " +
                 std::to_string(x.size(x.dim() - 1)) + ") because x is " + shape_string(x));
  check_kind(op, "weight", weight, "x", x, false);
  check_mask(op, weight, mask);
  check_branch(op, "x", x, down, up, weight.size(1), weight.size(0));
  check_bias(op, bias, weight.size(0), "x", x);
  check_scale(op, scale, "x", x);
}

void check_sparse24_backward(const char* op, const Tensor& grad, const Tensor& values, const Tensor& bitmask,
                             const OptionalTensor& packed, int64_t packed_bytes, const OptionalTensor& down,
                             const OptionalTensor& up, const OptionalTensor& x, int64_t needs) {
  check_defined(op, {{"grad", &grad}});
  check_activation(op, "grad", grad);
  check_sparse24_format(op, values, bitmask);
  if (grad.size(grad.dim() - 1) != values.size(0))
    fail(op, "values has shape " + shape_string(values) + ", expected (" + std::to_string(grad.size(grad.dim() - 1)) +
                 ", in / 2) because grad is " + shape_string(grad));
  check_kind(op, "values", values, "grad", grad, false);
  check_packed(op, packed, packed_bytes, values);
  check_branch(op, "grad", grad, down, up, 2 * values.size(1), values.size(0));
  if (!x && (needs & ~int64_t(1)) != 0) fail(op, "x is missing, expected it because needs is " + std::to_string(needs));
  if (!down && (needs & 12) != 0) fail(op, "down is missing, expected it because needs is " + std::to_string(needs));
  check_beside_grad(op, "x", x, grad, 2 * values.size(1), false);
}

}  // namespace lrk::binding
