// Between torch::stable tensors and the torch-free kernels: views, contexts, errors and the few aten calls we make.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lrk/context.h"
#include "lrk/types.h"

namespace lrk::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

/// Throws std::runtime_error("<op>: <message>"), which torch shows as a RuntimeError.
[[noreturn]] void fail(const char* op, const std::string& message);
/// Why torch's last call failed, as ": <the first line of what it said>"; `otherwise` where torch cannot tell.
std::string torchs_reason(const char* otherwise);
/// Turns a kernel's Status into an exception that names the op, once: kernels name the operation that they serve.
void require(const Status& status, const char* op);

std::string shape_string(const Tensor& tensor);
std::string device_string(const Tensor& tensor);
/// "torch.float32" for every dtype a user can pass here.
std::string dtype_string(ScalarType dtype);
bool is_kernel_dtype(ScalarType dtype);
DType kernel_dtype(ScalarType dtype);
/// The wider of two dtypes that may meet in one op.
ScalarType wider(ScalarType a, ScalarType b);

/// Rows of a tensor seen as a matrix: all leading dimensions times the last one.
int64_t flat_rows(const Tensor& tensor);
/// The tensor itself when its leading dimensions collapse into one stride, else a contiguous copy.
Tensor collapsible(const Tensor& tensor);

/// [..., cols] as kernels read it: collapsible, and with contiguous rows unless they take any layout.
Tensor row_operand(const Tensor& tensor, bool any_layout);

/// [..., cols] as [rows, cols]: a view where the leading dimensions collapse, else a copy.
Tensor matrix_of(const Tensor& tensor);

/// A view of `length` entries of dimension `dim` from `start` on.
Tensor slice(Tensor tensor, int64_t dim, int64_t start, int64_t length);

/// Views of [..., cols] as a matrix; `collapsible` must hold. 1-D tensors are one row.
MatrixView matrix_view(const Tensor& tensor);
MatrixView optional_view(const OptionalTensor& tensor);
MutableMatrixView mutable_view(const Tensor& tensor);

/// A contiguous tensor on `like`'s device, not initialised.
Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like);
/// One of `tensor`'s own sizes and dtype.
Tensor like(const Tensor& tensor);
/// x's sizes with the last one replaced.
std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t last);

/// The op that this thread's errors name, while it lives. An op may run inside another.
class RunningOp {
 public:
  explicit RunningOp(const char* op);
  RunningOp(const RunningOp&) = delete;
  ~RunningOp();

 private:
  const char* outer_;
};

/// Work memory from torch's allocator and threads from torch's pool, for the duration of one op. On CUDA it also makes
/// the tensor's device current and enqueues on its current stream.
class Execution {
 public:
  Execution(const char* op, const Tensor& on);
  Execution(const Execution&) = delete;
  const Context& context() const { return context_; }

 private:
  RunningOp running_;
  std::vector<Tensor> workspace_;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  Context context_;
};

// aten, through the dispatcher. The tensors are plain: autograd, autocast and fakes were handled above us.
Tensor aten_linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias);
/// out = added + alpha * a b by torch's GEMM, matrices on the CPU; `added` may be `out`. Without it, out = alpha * a b.
void aten_addmm_cpu(const Tensor& out, const OptionalTensor& added, const Tensor& a, const Tensor& b, double alpha);
/// out = a b for stacks of matrices on the CPU.
void aten_bmm_cpu(const Tensor& out, const Tensor& a, const Tensor& b);
/// The same on any device.
void aten_bmm(const Tensor& out, const Tensor& a, const Tensor& b);
/// Eigenvalues, ascending, and eigenvectors, the columns, of a matrix on the CPU.
std::pair<Tensor, Tensor> aten_eigh(const Tensor& symmetric);
Tensor aten_transpose(const Tensor& matrix);
Tensor aten_multiply(const Tensor& a, const Tensor& b);
Tensor aten_sum(const Tensor& a, std::vector<int64_t> dims);

}  // namespace lrk::binding
