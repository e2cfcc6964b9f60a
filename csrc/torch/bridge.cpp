#include "torch/bridge.h"

#include <dlfcn.h>

#include <array>
#include <cctype>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/accelerator.h>

namespace lrk::binding {

using torch::headeronly::DeviceType;
namespace stable = torch::stable;

void fail(const char* op, const std::string& message) { throw std::runtime_error(std::string(op) + ": " + message); }

void require(const Status& status, const char* op) {
  if (status.ok()) return;
  if (status.message.rfind(std::string(op) + ": ", 0) == 0) throw std::runtime_error(status.message);
  fail(op, status.message);
}

std::string shape_string(const Tensor& tensor) {
  std::string text = "(";
  const int64_t dims = tensor.dim();
  for (int64_t i = 0; i < dims; ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + (dims == 1 ? ",)" : ")");
}

std::string device_string(const Tensor& tensor) {
  const auto device = tensor.device();
  switch (device.type()) {
    case DeviceType::CPU: return "cpu";
    case DeviceType::CUDA: return "cuda:" + std::to_string(device.index());
    case DeviceType::Meta: return "meta";
    default: return "device type " + std::to_string(int(device.type()));
  }
}

std::string dtype_string(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "torch.float32";
    case ScalarType::Double: return "torch.float64";
    case ScalarType::BFloat16: return "torch.bfloat16";
    case ScalarType::Half: return "torch.float16";
    case ScalarType::Long: return "torch.int64";
    case ScalarType::Int: return "torch.int32";
    case ScalarType::Short: return "torch.int16";
    case ScalarType::Char: return "torch.int8";
    case ScalarType::Byte: return "torch.uint8";
    case ScalarType::Bool: return "torch.bool";
    case ScalarType::ComplexFloat: return "torch.complex64";
    case ScalarType::ComplexDouble: return "torch.complex128";
    case ScalarType::ComplexHalf: return "torch.complex32";
    default: break;
  }
  // float8, quantised and unsigned kinds: torch's two names for these differ in capitals alone.
  std::string name = std::string("torch.") + torch::headeronly::toString(dtype);
  for (char& letter : name) letter = char(std::tolower(static_cast<unsigned char>(letter)));
  return name;
}

bool is_kernel_dtype(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
         dtype == ScalarType::Half;
}

DType kernel_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default: fail("lrkernels", dtype_string(dtype) + " reached a kernel, which reads floating point numbers");
  }
}

ScalarType wider(ScalarType a, ScalarType b) {
  return size_of(kernel_dtype(a)) >= size_of(kernel_dtype(b)) ? a : b;
}

int64_t flat_rows(const Tensor& tensor) {
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < tensor.dim(); ++i) rows *= tensor.size(i);
  return rows;
}

namespace {

/// The one stride that walks all leading dimensions in row-major order, or nothing when there is none.
std::optional<int64_t> leading_stride(const Tensor& tensor) {
  int64_t stride = 0, span = 0;
  bool found = false;
  for (int64_t i = tensor.dim() - 2; i >= 0; --i) {
    const int64_t size = tensor.size(i);
    if (size == 1) continue;
    if (!found) {
      stride = tensor.stride(i);
      found = true;
    } else if (tensor.stride(i) != span) {
      return std::nullopt;
    }
    span = tensor.stride(i) * size;
  }
  return stride;
}

}  // namespace

Tensor collapsible(const Tensor& tensor) {
  if (tensor.dim() <= 2 || tensor.numel() == 0 || leading_stride(tensor)) return tensor;
  return stable::contiguous(tensor);
}

Tensor row_operand(const Tensor& tensor, bool any_layout) {
  const Tensor flat = collapsible(tensor);
  const bool unit = flat.size(flat.dim() - 1) <= 1 || flat.stride(flat.dim() - 1) == 1;
  return any_layout || unit ? flat : stable::contiguous(flat);
}

Tensor matrix_of(const Tensor& tensor) {
  if (tensor.dim() == 2) return tensor;
  return stable::reshape(tensor, {flat_rows(tensor), tensor.size(tensor.dim() - 1)});
}

Tensor slice(Tensor tensor, int64_t dim, int64_t start, int64_t length) {
  return stable::narrow(tensor, dim, start, length);
}

MatrixView matrix_view(const Tensor& tensor) {
  const int64_t dims = tensor.dim();
  MatrixView view;
  view.data = tensor.const_data_ptr();
  view.dtype = kernel_dtype(tensor.scalar_type());
  view.rows = flat_rows(tensor);
  view.cols = tensor.size(dims - 1);
  view.col_stride = view.cols <= 1 ? 1 : tensor.stride(dims - 1);  // of one column torch's stride may be anything
  view.row_stride = leading_stride(tensor).value_or(view.cols);
  if (tensor.numel() == 0) view.row_stride = view.cols, view.col_stride = 1;  // an empty expanded tensor is contiguous
  return view;
}

MatrixView optional_view(const OptionalTensor& tensor) { return tensor ? matrix_view(*tensor) : MatrixView{}; }

MutableMatrixView mutable_view(const Tensor& tensor) {
  const MatrixView view = matrix_view(tensor);
  return {tensor.mutable_data_ptr(), view.dtype, view.rows, view.cols, view.row_stride, view.col_stride};
}

extern "C" {
// torch 2.13 and later: why the last call failed. Older libraries lack it.
__attribute__((weak)) const char* torch_exception_get_what_without_backtrace();
}

std::string torchs_reason(const char* otherwise) {
  if (&torch_exception_get_what_without_backtrace == nullptr) return otherwise;
  const std::string what = torch_exception_get_what_without_backtrace();
  return ": " + what.substr(0, what.find('\n'));
}

namespace {

/// The op whose outputs and work memory this thread allocates, for the message when it cannot.
thread_local const char* running_op = "lrkernels";

size_t size_of_element(ScalarType dtype) {
  if (dtype == ScalarType::Byte || dtype == ScalarType::Bool) return 1;
  return dtype == ScalarType::Long ? 8 : size_of(kernel_dtype(dtype));
}

int32_t shim_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return aoti_torch_dtype_float64();
    case ScalarType::BFloat16: return aoti_torch_dtype_bfloat16();
    case ScalarType::Half: return aoti_torch_dtype_float16();
    case ScalarType::Byte: return aoti_torch_dtype_uint8();
    case ScalarType::Bool: return aoti_torch_dtype_bool();
    case ScalarType::Long: return aoti_torch_dtype_int64();
    default: return aoti_torch_dtype_float32();
  }
}

}  // namespace

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like) {
  // Straight to the allocator: the dispatcher would look aten::empty up by name at every call.
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * (sizes[i] > 1 ? sizes[i] : 1);
  int32_t device_type = 0;
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_get_device_type(like.get(), &device_type) != AOTI_TORCH_SUCCESS ||
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), shim_dtype(dtype), device_type,
                               like.get_device_index(), &handle) != AOTI_TORCH_SUCCESS) {
    double bytes = double(size_of_element(dtype));
    for (const int64_t size : sizes) bytes *= double(size);
    char text[32];
    std::snprintf(text, sizeof text, "%.0f", bytes);
    fail(running_op, std::string("torch could not allocate ") + text + " bytes on " + device_string(like) +
                         torchs_reason(": out of memory"));
  }
  return Tensor(handle);
}

Tensor like(const Tensor& tensor) {
  return empty(std::vector<int64_t>(tensor.sizes().begin(), tensor.sizes().end()), tensor.scalar_type(), tensor);
}

std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t last) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = last;
  return sizes;
}

namespace {

using CurrentStream = AOTITorchError (*)(int32_t device, void** stream);

/// CPU-only torch has no such function, so it cannot be linked: it is looked up when the first CUDA tensor arrives.
CurrentStream current_stream_function() {
  static const CurrentStream function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<CurrentStream>(symbol);
  }();
  return function;
}

constexpr size_t kWorkspaceAlignment = 256;

}  // namespace

RunningOp::RunningOp(const char* op) : outer_(std::exchange(running_op, op)) {}
RunningOp::~RunningOp() { running_op = outer_; }

Execution::Execution(const char* op, const Tensor& on) : running_(op) {
  context_.parallel_for = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
    stable::parallel_for(0, tasks, 1, body);
  };
  context_.allocate = [this, on](size_t bytes) -> void* {
    workspace_.push_back(empty({int64_t(bytes + kWorkspaceAlignment)}, ScalarType::Byte, on));
    const auto address = reinterpret_cast<uintptr_t>(workspace_.back().mutable_data_ptr());
    return reinterpret_cast<void*>((address + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment);
  };
  if (on.is_cuda()) {
    const int32_t index = on.get_device_index();
    guard_.emplace(index);
    const CurrentStream current_stream = current_stream_function();
    if (current_stream == nullptr) fail("lrkernels", "libtorch_cuda.so is not loaded, yet a CUDA tensor was passed");
    if (current_stream(index, &context_.stream) != AOTI_TORCH_SUCCESS) {
      fail("lrkernels", "torch did not tell its current CUDA stream");
    }
    context_.device = index;
  }
}

namespace {

constexpr const char* kPrinted = " (torch printed why on standard error)";  // before 2.13, which can be asked

template <size_t count>
Tensor call(const char* name, const char* overload, const Tensor& on, std::array<StableIValue, count> stack) {
  if (torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    fail(running_op, std::string(name) + " failed on " + device_string(on) + torchs_reason(kPrinted));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace

Tensor aten_linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  using torch::stable::detail::from;
  return call<3>("aten::linear", "", x, {from(x), from(weight), from(bias)});
}

void aten_addmm_cpu(const Tensor& out, const OptionalTensor& added, const Tensor& a, const Tensor& b, double alpha) {
  // Not through the dispatcher: it takes no Scalar from the stable ABI, and looks an op up by name at every call.
  const Tensor& first = added ? *added : out;  // not read when beta is 0
  if (aoti_torch_cpu_addmm_out(out.get(), first.get(), a.get(), b.get(), added ? 1.0 : 0.0, alpha) !=
      AOTI_TORCH_SUCCESS) {
    fail(running_op, std::string("torch's addmm failed") + torchs_reason(kPrinted));
  }
}

void aten_bmm_cpu(const Tensor& out, const Tensor& a, const Tensor& b) {
  if (aoti_torch_cpu_bmm_out(out.get(), a.get(), b.get()) != AOTI_TORCH_SUCCESS)
    fail(running_op, std::string("torch's bmm failed") + torchs_reason(kPrinted));
}

void aten_bmm(const Tensor& out, const Tensor& a, const Tensor& b) {
  if (!a.is_cuda()) return aten_bmm_cpu(out, a, b);
  using torch::stable::detail::from;
  call<3>("aten::bmm", "out", a, {from(a), from(b), from(out)});
}

Tensor aten_transpose(const Tensor& matrix) { return stable::transpose(matrix, 0, 1); }

Tensor aten_multiply(const Tensor& a, const Tensor& b) {
  using torch::stable::detail::from;
  return call<2>("aten::mul", "Tensor", a, {from(a), from(b)});
}

std::pair<Tensor, Tensor> aten_eigh(const Tensor& symmetric) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 2> stack{from(symmetric), from(std::string("L"))};
  if (torch_call_dispatcher("aten::linalg_eigh", "", stack.data(), TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    fail(running_op, std::string("torch's eigh failed") + torchs_reason(kPrinted));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

Tensor aten_sum(const Tensor& a, std::vector<int64_t> dims) {
  return stable::sum(a, torch::headeronly::IntHeaderOnlyArrayRef(dims));
}

}  // namespace lrk::binding
