// torch.ops.lrk.sparse24_*: schemas, registration, and the products and low-rank terms that make the linear op and its
// gradients.
#include "lrk/sparse24.h"

#include <string>
#include <tuple>

#include "torch/inspection.h"
#include "torch/lowrank.h"
#include "torch/plain.h"
#include "torch/sketch_matrices.h"
#include "torch/sparse24_checks.h"

namespace lrk::binding {
namespace {

constexpr int64_t kNeedsX = 1, kNeedsValues = 2, kNeedsDown = 4, kNeedsUp = 8;

const Sparse24Backend& sparse24_for(const char* op, const Tensor& on) {
  return backend_for(op, on, sparse24_cpu(), sparse24_cuda(), sparse24_cuda_emulated());
}

bool on_cpu(const Sparse24Backend& backend) { return &backend == &sparse24_cpu(); }

/// values and bitmask as kernels read them: contiguous.
struct Format {
  Tensor values, bitmask;
  Sparse24Matrix matrix;

  Format(const Tensor& any_values, const Tensor& any_bitmask)
      : values(torch::stable::contiguous(any_values)), bitmask(torch::stable::contiguous(any_bitmask)) {
    matrix.values = matrix_view(values), matrix.bitmask = static_cast<const uint8_t*>(bitmask.const_data_ptr());
  }
};

int64_t packed_bytes_for(const Sparse24Backend& backend, const Tensor& values, bool transposable) {
  if (!values.defined() || values.dim() != 2 || !is_kernel_dtype(values.scalar_type())) return 0;  // refused elsewhere
  return int64_t(backend.packed_bytes(values.size(0), 2 * values.size(1), kernel_dtype(values.scalar_type()),
                                      transposable));
}

[[noreturn]] void refuse_group(const char* op, const char* name, int64_t malformed, int64_t in) {
  fail(op, std::string(name) + " is malformed: of columns " + std::to_string(malformed % (in / 4) * 4) + " to " +
               std::to_string(malformed % (in / 4) * 4 + 3) + " of row " + std::to_string(malformed / (in / 4)) +
               " not exactly two are kept, or bits past the last column are set");
}

/// Where kernels report the first malformed group. Reading it waits for the device: the one sync of these ops.
class Malformed {
 public:
  explicit Malformed(const Tensor& on) : first_(empty({1}, ScalarType::Long, on)) {}
  int64_t* data() const { return static_cast<int64_t*>(first_.mutable_data_ptr()); }
  int64_t get() const {
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    const Tensor host = first_.is_cuda() ? torch::stable::to(first_, cpu) : first_;
    return *static_cast<const int64_t*>(host.const_data_ptr());
  }

 private:
  Tensor first_;
};

Tensor sparse24_mask(const Tensor& weight, bool transposable, std::string method) {
  const char* op = "sparse24_mask";
  const Sparse24Mask kind = check_sparse24_mask(op, weight, transposable, method);
  const Execution execution(op, weight);
  const Sparse24Backend& backend = sparse24_for(op, weight);
  const Tensor rows = row_operand(weight, on_cpu(backend));
  const Tensor mask = empty({weight.size(0), weight.size(1)}, ScalarType::Bool, weight);
  Sparse24MaskArgs args;
  args.weight = matrix_view(rows), args.kind = kind, args.mask = static_cast<uint8_t*>(mask.mutable_data_ptr());
  run(op, "mask", backend.plan_mask, backend.mask, args, execution.context());
  return mask;
}

std::tuple<Tensor, Tensor> compress(const char* op, const Tensor& weight, const Tensor& mask,
                                    const Execution& execution) {
  const Sparse24Backend& backend = sparse24_for(op, weight);
  const int64_t out = weight.size(0), in = weight.size(1);
  const Tensor rows = row_operand(weight, on_cpu(backend)), whole_mask = torch::stable::contiguous(mask);
  const Tensor values = empty({out, in / 2}, weight.scalar_type(), weight);
  const Tensor bitmask = empty({out, (in + 7) / 8}, ScalarType::Byte, weight);
  const Malformed malformed(weight);
  Sparse24CompressArgs args;
  args.weight = matrix_view(rows), args.mask = static_cast<const uint8_t*>(whole_mask.const_data_ptr());
  args.values = mutable_view(values), args.bitmask = static_cast<uint8_t*>(bitmask.mutable_data_ptr());
  args.malformed = malformed.data();
  run(op, "compress", backend.plan_compress, backend.compress, args, execution.context());
  if (!planning() && malformed.get() >= 0) refuse_group(op, "mask", malformed.get(), in);
  return {values, bitmask};
}

std::tuple<Tensor, Tensor> sparse24_compress(const Tensor& weight, const Tensor& mask) {
  const char* op = "sparse24_compress";
  check_sparse24_compress(op, weight, mask);
  const Execution execution(op, weight);
  return compress(op, weight, mask, execution);
}

/// Refuses a malformed bitmask; into `dense` where it is given.
void decompress(const char* op, const Format& format, const OptionalTensor& dense, const Execution& execution) {
  const Sparse24Backend& backend = sparse24_for(op, format.values);
  const Malformed malformed(format.values);
  Sparse24DecompressArgs args;
  args.weight = format.matrix, args.malformed = malformed.data();
  if (dense) args.dense = mutable_view(*dense);
  run(op, "decompress", backend.plan_decompress, backend.decompress, args, execution.context());
  if (!planning() && malformed.get() >= 0) refuse_group(op, "bitmask", malformed.get(), format.matrix.in());
}

Tensor sparse24_decompress(const Tensor& values, const Tensor& bitmask) {
  const char* op = "sparse24_decompress";
  check_sparse24_format(op, values, bitmask);
  const Execution execution(op, values);
  const Format format(values, bitmask);
  const Tensor dense = empty({values.size(0), 2 * values.size(1)}, values.scalar_type(), values);
  decompress(op, format, dense, execution);
  return dense;
}

Tensor sparse24_pack(const Tensor& values, const Tensor& bitmask, bool transposable) {
  const char* op = "sparse24_pack";
  check_sparse24_format(op, values, bitmask);
  if (transposable && values.size(0) % 4 != 0)
    fail(op, "values has shape " + shape_string(values) + ", expected out to be a multiple of 4 because the mask is "
             "transposable");
  const Execution execution(op, values);
  const Sparse24Backend& backend = sparse24_for(op, values);
  const Format format(values, bitmask);
  decompress(op, format, std::nullopt, execution);
  const Tensor packed = empty({packed_bytes_for(backend, values, transposable)}, ScalarType::Byte, values);
  Sparse24PackArgs args;
  args.weight = format.matrix, args.transposable = transposable, args.packed = packed.mutable_data_ptr();
  if (packed.numel() > 0) run(op, "pack", backend.plan_pack, backend.pack, args, execution.context());
  return packed;
}

/// y = x WT (or x W) + scale s upT + bias; s = x downT is computed here.
Tensor product(const char* op, const Tensor& x, const Format& format, const OptionalTensor& packed, bool transposable,
               bool transposed, const OptionalTensor& down, const OptionalTensor& up, const OptionalTensor& bias,
               double scale, const Execution& execution) {
  const Sparse24Backend& backend = sparse24_for(op, x);
  const Tensor rows = row_operand(x, on_cpu(backend));
  const int64_t columns = transposed ? format.matrix.in() : format.matrix.out();
  const Tensor y = empty(sizes_with_last(x, columns), x.scalar_type(), x);
  Sparse24LinearArgs args;
  args.x = matrix_view(rows), args.y = mutable_view(y), args.weight = format.matrix;
  args.transposable = transposable, args.transposed = transposed, args.scale = scale;
  if (packed && packed->numel() > 0) args.packed = packed->const_data_ptr();
  if (bias) args.bias = matrix_view(*bias);
  if (on_cpu(backend)) args.product = matrix_product(execution);
  OptionalTensor s, factor;
  if (down && down->size(0) > 0) {
    LowRankRunner runner(op, x, *down);
    s = runner.branch(flat_rows(x), down->size(0));
    runner.project(x, *down, std::nullopt, std::nullopt, 1.0, 0.0, *s);
    factor = *up;
    args.s = matrix_view(*s), args.up = matrix_view(*factor);
  }
  run(op, "linear", backend.plan_linear, backend.linear, args, execution.context());
  return y;
}

Tensor sparse24_linear(const Tensor& x, const Tensor& values, const Tensor& bitmask, const OptionalTensor& packed,
                       const OptionalTensor& down, const OptionalTensor& up, const OptionalTensor& bias, double scale,
                       bool transposable) {
  const char* op = "sparse24_linear";
  const int64_t bytes = x.defined() ? packed_bytes_for(sparse24_for(op, x), values, transposable) : 0;
  check_sparse24_linear(op, x, values, bitmask, packed, bytes, down, up, bias, scale);
  const Execution execution(op, x);
  return product(op, x, Format(values, bitmask), packed, transposable, false, down, up, bias, scale, execution);
}

Tensor sparse24_linear_ste(const Tensor& x, const Tensor& weight, const Tensor& mask, const OptionalTensor& down,
                           const OptionalTensor& up, const OptionalTensor& bias, double scale, bool transposable) {
  const char* op = "sparse24_linear_ste";
  check_sparse24_linear_ste(op, x, weight, mask, down, up, bias, scale);
  const Execution execution(op, x);
  const auto [values, bitmask] = compress(op, weight, mask, execution);
  return product(op, x, Format(values, bitmask), std::nullopt, transposable, false, down, up, bias, scale, execution);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sparse24_linear_backward(
    const Tensor& grad, const Tensor& values, const Tensor& bitmask, const OptionalTensor& packed,
    const OptionalTensor& down, const OptionalTensor& up, const OptionalTensor& x, double scale, bool transposable,
    int64_t needs) {
  const char* op = "sparse24_linear_backward";
  const int64_t bytes = grad.defined() ? packed_bytes_for(sparse24_for(op, grad), values, transposable) : 0;
  check_sparse24_backward(op, grad, values, bitmask, packed, bytes, down, up, x, needs);
  const Execution execution(op, grad);
  const Sparse24Backend& backend = sparse24_for(op, grad);
  const Format format(values, bitmask);
  const auto nothing = [&](const OptionalTensor& of) { return empty({0}, (of ? *of : grad).scalar_type(), grad); };
  Tensor dx = nothing(grad), dvalues = nothing(values), ddown = nothing(down), dup = nothing(up);
  if ((needs & kNeedsX) != 0) {
    OptionalTensor up_rows, down_rows;
    if (down) up_rows = aten_transpose(*up), down_rows = aten_transpose(*down);
    dx = product(op, grad, format, packed, transposable, true, up_rows, down_rows, std::nullopt, scale, execution);
  }
  if ((needs & kNeedsValues) != 0) {
    const bool any_layout = on_cpu(backend);
    const Tensor grad_rows = row_operand(grad, any_layout), x_rows = row_operand(*x, any_layout);
    dvalues = empty({values.size(0), values.size(1)}, values.scalar_type(), values);
    Sparse24ValuesGradArgs args;
    args.grad = matrix_view(grad_rows), args.x = matrix_view(x_rows), args.bitmask = format.matrix.bitmask;
    args.dvalues = mutable_view(dvalues);
    if (any_layout) args.product = matrix_product(execution);
    run(op, "values_grad", backend.plan_values_grad, backend.values_grad, args, execution.context());
  }
  if (down && (needs & (kNeedsDown | kNeedsUp)) != 0) {
    LowRankRunner runner(op, grad, *down);
    const Tensor s = runner.branch(flat_rows(grad), down->size(0));
    if ((needs & kNeedsDown) != 0) {
      ddown = empty({down->size(0), down->size(1)}, down->scalar_type(), *down);
      runner.project(grad, aten_transpose(*up), std::nullopt, std::nullopt, scale, 0.0, s);
      runner.factor_grad(s, *x, std::nullopt, 1.0, 0.0, ddown);
    }
    if ((needs & kNeedsUp) != 0) {
      dup = empty({up->size(0), up->size(1)}, up->scalar_type(), *up);
      runner.project(*x, *down, std::nullopt, std::nullopt, scale, 0.0, s);
      runner.factor_grad(s, grad, std::nullopt, 1.0, 0.0, aten_transpose(dup));
    }
  }
  return {dx, dvalues, ddown, dup};
}

/// Of what sparse24_pack returns for values of this kind, on a CUDA device or the CPU.
int64_t packed_bytes(int64_t out, int64_t in, ScalarType dtype, bool cuda, bool transposable) {
  const Sparse24Backend* const device = cuda ? sparse24_cuda() : sparse24_cuda_emulated();
  const Sparse24Backend* const backend = cuda || emulating() ? device : &sparse24_cpu();
  const bool plain = backend == nullptr || reference_only() || (!on_cpu(*backend) && dtype == ScalarType::Double);
  return plain ? 0 : int64_t(backend->packed_bytes(out, in, kernel_dtype(dtype), transposable));
}

/// The CUDA kernels of this family are not written yet: the plain expression serves there.
template <auto kernel, FixedString op>
void kernel_on_cpu(StableIValue* stack, uint64_t arguments, uint64_t results) {
  if (emulating() && sparse24_cuda_emulated() == nullptr)
    return call_plain(op.text, "lrkernels has no CUDA kernels of the 2:4 family yet", stack);
  kernel_or_plain<kernel, op>(stack, arguments, results);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("sparse24_mask", &kernel_on_cpu<TORCH_BOX(&sparse24_mask), "sparse24_mask">);
  m.impl("sparse24_compress", &kernel_on_cpu<TORCH_BOX(&sparse24_compress), "sparse24_compress">);
  m.impl("sparse24_decompress", &kernel_on_cpu<TORCH_BOX(&sparse24_decompress), "sparse24_decompress">);
  m.impl("sparse24_pack", &kernel_on_cpu<TORCH_BOX(&sparse24_pack), "sparse24_pack">);
  m.impl("sparse24_linear", &kernel_on_cpu<TORCH_BOX(&sparse24_linear), "sparse24_linear">);
  m.impl("sparse24_linear_ste", &kernel_on_cpu<TORCH_BOX(&sparse24_linear_ste), "sparse24_linear_ste">);
  m.impl("_sparse24_linear_backward",
         &kernel_on_cpu<TORCH_BOX(&sparse24_linear_backward), "_sparse24_linear_backward">);
}

}  // namespace
}  // namespace lrk::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lrk, m) {
  m.def("sparse24_mask(Tensor weight, *, bool transposable=False, str method=\"exact\") -> Tensor");
  m.def("sparse24_compress(Tensor weight, Tensor mask) -> (Tensor, Tensor)");
  m.def("sparse24_decompress(Tensor values, Tensor bitmask) -> Tensor");
  m.def("sparse24_pack(Tensor values, Tensor bitmask, *, bool transposable=False) -> Tensor");
  m.def(
      "sparse24_linear(Tensor x, Tensor values, Tensor bitmask, Tensor? packed=None, Tensor? down=None, "
      "Tensor? up=None, Tensor? bias=None, *, float scale=1.0, bool transposable=False) -> Tensor");
  m.def(
      "sparse24_linear_ste(Tensor x, Tensor weight, Tensor mask, Tensor? down=None, Tensor? up=None, "
      "Tensor? bias=None, *, float scale=1.0, bool transposable=False) -> Tensor");
  m.def(
      "_sparse24_linear_backward(Tensor grad, Tensor values, Tensor bitmask, Tensor? packed=None, Tensor? down=None, "
      "Tensor? up=None, Tensor? x=None, *, float scale, bool transposable, int needs) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("_sparse24_packed_bytes(int out, int features, ScalarType dtype, bool cuda, bool transposable) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CompositeExplicitAutograd, m) {
  m.impl("_sparse24_packed_bytes", TORCH_BOX(&lrk::binding::packed_bytes));
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CPU, m) {
  if (!lrk::binding::reference_only()) lrk::binding::register_kernels(m);
}

STABLE_TORCH_LIBRARY_IMPL(lrk, CUDA, m) {
  if (!lrk::binding::reference_only() && lrk::sparse24_cuda() != nullptr) lrk::binding::register_kernels(m);
}
