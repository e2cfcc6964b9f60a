#include "cublaslt.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>

#if defined(__unix__)
#include <dlfcn.h>
#endif

namespace lrk::bench {
namespace {

// --- The part of cuBLASLt's C interface that is used, with the values its documentation gives; stable since CUDA 11.

using Handle = void*;
using Descriptor = void*;
constexpr int kReal32 = 0, kReal16 = 2, kRealBFloat16 = 14;  // cudaDataType_t
constexpr int kCompute32 = 68;                               // CUBLAS_COMPUTE_32F: float, never TF32
constexpr int kTransposeA = 3, kTransposeB = 4;              // cublasLtMatmulDescAttributes_t
constexpr int kMaxWorkspace = 1;                             // cublasLtMatmulPreferenceAttributes_t
constexpr int32_t kPlain = 0, kTransposed = 1;               // cublasOperation_t

struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

struct Functions {
  int (*create)(Handle*);
  int (*destroy)(Handle);
  size_t (*version)();
  int (*description_create)(Descriptor*, int compute, int scale_type);
  int (*description_set)(Descriptor, int attribute, const void* value, size_t bytes);
  int (*description_destroy)(Descriptor);
  int (*layout_create)(Descriptor*, int type, uint64_t rows, uint64_t cols, int64_t leading);
  int (*layout_destroy)(Descriptor);
  int (*preference_create)(Descriptor*);
  int (*preference_set)(Descriptor, int attribute, const void* value, size_t bytes);
  int (*preference_destroy)(Descriptor);
  int (*heuristic)(Handle, Descriptor, Descriptor a, Descriptor b, Descriptor c, Descriptor d, Descriptor preference,
                   int wanted, HeuristicResult* results, int* found);
  int (*matmul)(Handle, Descriptor, const void* alpha, const void* a, Descriptor, const void* b, Descriptor,
                const void* beta, const void* c, Descriptor, void* d, Descriptor, const Algorithm*, void* workspace,
                size_t workspace_bytes, void* stream);
};

constexpr size_t kWorkspaceBytes = size_t(32) << 20;
constexpr int kCandidates = 8, kTimedCalls = 5;

Status failed(const char* what, int code) {
  return {StatusCode::kDeviceError, std::string("cuBLASLt: ") + what + " returned status " + std::to_string(code)};
}

int type_of(DType dtype) {
  return dtype == DType::kFloat32 ? kReal32 : dtype == DType::kFloat16 ? kReal16 : kRealBFloat16;
}

/// Shape and layout of a product: everything the choice of an algorithm depends on.
using Key = std::array<int64_t, 10>;

struct Product {
  Descriptor description = nullptr, a = nullptr, b = nullptr, d = nullptr;
  Algorithm algorithm{};
};

class OpenedCublasLt : public CublasLt {
 public:
  OpenedCublasLt(Device& device, const Functions& functions, Handle handle)
      : device_(device), functions_(functions), handle_(handle), workspace_(device.allocate(kWorkspaceBytes)) {}
  ~OpenedCublasLt() override {
    for (const auto& [key, product] : products_) {
      for (Descriptor layout : {product.a, product.b, product.d}) functions_.layout_destroy(layout);
      functions_.description_destroy(product.description);
    }
    functions_.destroy(handle_);
    device_.release(workspace_);
  }

  std::string version() const override { return std::to_string(functions_.version()); }

  Status gemm(const MatrixView& left, const MatrixView& right, double scale, bool add,
              const MutableMatrixView& to) override {
    const bool right_rows = right.col_stride == 1, left_rows = left.col_stride == 1;
    const Key key = {int64_t(to.dtype), to.rows,     to.cols,          left.cols,        right_rows,
                     left_rows,         to.row_stride, right_rows ? right.row_stride : right.col_stride,
                     left_rows ? left.row_stride : left.col_stride, add};
    auto known = products_.find(key);
    if (known == products_.end()) {
      Product product;
      if (Status status = plan(key, left, right, to, product); !status.ok()) return status;
      known = products_.emplace(key, product).first;
    }
    return run(known->second, known->second.algorithm, left, right, float(scale), add, to);
  }

 private:
  // The library counts in columns: D = alpha A B is, of the same memory read by rows, toT. So A is `right`, B is `left`.
  Status run(const Product& product, const Algorithm& algorithm, const MatrixView& left, const MatrixView& right,
             float scale, bool add, const MutableMatrixView& to) {
    const float beta = add ? 1.0f : 0.0f;
    const int code = functions_.matmul(handle_, product.description, &scale, right.data, product.a, left.data, product.b,
                                       &beta, to.data, product.d, to.data, product.d, &algorithm, workspace_,
                                       kWorkspaceBytes, device_.context().stream);
    return code == 0 ? Status{} : failed("matmul", code);
  }

  Status plan(const Key& key, const MatrixView& left, const MatrixView& right, const MutableMatrixView& to,
              Product& product) {
    const int type = type_of(to.dtype);
    const bool right_rows = key[4] != 0, left_rows = key[5] != 0;
    const int32_t transpose_a = right_rows ? kTransposed : kPlain, transpose_b = left_rows ? kPlain : kTransposed;
    int code = functions_.description_create(&product.description, kCompute32, kReal32);
    if (code == 0) code = functions_.description_set(product.description, kTransposeA, &transpose_a, sizeof transpose_a);
    if (code == 0) code = functions_.description_set(product.description, kTransposeB, &transpose_b, sizeof transpose_b);
    const uint64_t rows = uint64_t(to.rows), cols = uint64_t(to.cols), inner = uint64_t(left.cols);
    if (code == 0)
      code = functions_.layout_create(&product.a, type, right_rows ? inner : cols, right_rows ? cols : inner, key[7]);
    if (code == 0)
      code = functions_.layout_create(&product.b, type, left_rows ? inner : rows, left_rows ? rows : inner, key[8]);
    if (code == 0) code = functions_.layout_create(&product.d, type, cols, rows, to.row_stride);
    if (code != 0) return failed("describing a product", code);

    Descriptor preference = nullptr;
    HeuristicResult results[kCandidates];
    int found = 0;
    const size_t workspace = kWorkspaceBytes;
    code = functions_.preference_create(&preference);
    if (code == 0) code = functions_.preference_set(preference, kMaxWorkspace, &workspace, sizeof workspace);
    if (code == 0)
      code = functions_.heuristic(handle_, product.description, product.a, product.b, product.d, product.d, preference,
                                  kCandidates, results, &found);
    if (preference != nullptr) functions_.preference_destroy(preference);
    if (code != 0 || found == 0) return failed("asking for an algorithm", code);
    // Into memory of its own: `to` may hold what the product is to be added to.
    MutableMatrixView scratch = to;
    scratch.data = device_.allocate(size_t(to.rows * to.row_stride) * size_of(to.dtype));
    double best = 0;
    for (int i = 0; i < found; ++i) {
      if (results[i].state != 0) continue;
      const auto call = [&] { return run(product, results[i].algorithm, left, right, 1, false, scratch); };
      if (!device_.time(call, 1).second.ok()) continue;
      const double microseconds = device_.time(call, kTimedCalls).first;
      if (best != 0 && microseconds >= best) continue;
      best = microseconds;
      product.algorithm = results[i].algorithm;
    }
    device_.release(scratch.data);
    return best > 0 ? Status{} : failed("every algorithm", code);
  }

  Device& device_;
  Functions functions_;
  Handle handle_;
  void* workspace_;
  std::map<Key, Product> products_;
};

#if defined(__unix__)
void* open_library() {
  if (const char* named = std::getenv("LRK_CUBLASLT")) return dlopen(named, RTLD_NOW | RTLD_LOCAL);
  for (const char* name : {"libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"})
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  return nullptr;
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}
#endif

}  // namespace

std::unique_ptr<CublasLt> open_cublaslt(Device& device, std::string* reason) {
#if defined(__unix__)
  void* library = open_library();
  if (library == nullptr) {
    *reason = "libcublasLt was not found (LRK_CUBLASLT=/path/to/libcublasLt.so names it)";
    return nullptr;
  }
  Functions f{};
  const bool complete =
      find(library, "cublasLtCreate", f.create) && find(library, "cublasLtDestroy", f.destroy) &&
      find(library, "cublasLtGetVersion", f.version) &&
      find(library, "cublasLtMatmulDescCreate", f.description_create) &&
      find(library, "cublasLtMatmulDescSetAttribute", f.description_set) &&
      find(library, "cublasLtMatmulDescDestroy", f.description_destroy) &&
      find(library, "cublasLtMatrixLayoutCreate", f.layout_create) &&
      find(library, "cublasLtMatrixLayoutDestroy", f.layout_destroy) &&
      find(library, "cublasLtMatmulPreferenceCreate", f.preference_create) &&
      find(library, "cublasLtMatmulPreferenceSetAttribute", f.preference_set) &&
      find(library, "cublasLtMatmulPreferenceDestroy", f.preference_destroy) &&
      find(library, "cublasLtMatmulAlgoGetHeuristic", f.heuristic) && find(library, "cublasLtMatmul", f.matmul);
  Handle handle = nullptr;
  if (!complete || f.create(&handle) != 0) {
    *reason = complete ? "cublasLtCreate failed" : "the libcublasLt found lacks a function";
    return nullptr;
  }
  return std::make_unique<OpenedCublasLt>(device, f, handle);
#else
  *reason = "libraries cannot be opened at run time here";
  return nullptr;
#endif
}

}  // namespace lrk::bench
