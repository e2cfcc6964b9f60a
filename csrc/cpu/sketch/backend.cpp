// sketch_cpu(): one kernel an operation, float32 or float64.
#include "cpu/sketch/kernels.h"
#include "cpu/sketch/orthonormalize.h"
#include "cpu/sketch/sketch_matrix.h"
#include "cpu/sketch/workspace_bytes.h"
#include "device/sketch_rules.h"
#include "runtime/cpu_features.h"

namespace lrk {
namespace {

std::string name(const char* operation) { return std::string("sketch_") + operation + "_cpu"; }

Plan plan(const char* operation, const std::string& reason, size_t workspace_bytes = 0) {
  Plan plan;
  plan.kernel = name(operation), plan.reason = reason, plan.workspace_bytes = workspace_bytes;
#if defined(__x86_64__)
  plan.hardware_verified = true;
#endif
  return plan;
}

bool is_double(const MatrixView& view) { return view.dtype == DType::kFloat64; }

template <class Args>
size_t bytes_of(const Args& args, const MatrixView& a) {
  return is_double(a) ? cpu::workspace_bytes<double>(args) : cpu::workspace_bytes<float>(args);
}

std::string start_of(const RangeFinderArgs& args, int64_t size) {
  return starts_gaussian(args.a.cols, size)
             ? "subspace iteration from Gaussian columns, by GEMMs"
             : "subspace iteration from sparse random signs: a pass of additions, then GEMMs";
}

Plan plan_sketch_matrix(const SketchMatrixArgs&, const Context&) {
  return plan("matrix", "the matrix is written once, and multiplied by a GEMM");
}

Status sketch_matrix(const SketchMatrixArgs& args, const Context& context) {
  record_dispatch(name("matrix"));
  is_double(args.matrix) ? cpu::fill_sketch_matrix<double>(args, context)
                         : cpu::fill_sketch_matrix<float>(args, context);
  return {};
}

Plan plan_orthonormalize(const OrthonormalizeArgs& args, const Context&) {
  const bool squat = cpu::reflects_at_once(args.a.rows, std::min(args.a.rows, args.a.cols));
  return plan("orthonormalize",
              squat ? "Householder's reflections in panels: hardly more rows than columns"
                    : "CholeskyQR from a float64 Gram matrix, preconditioned by a sketch where that fails",
              bytes_of(args, args.a));
}

Status orthonormalize(const OrthonormalizeArgs& args, const Context& context) {
  record_dispatch(name("orthonormalize"));
  return is_double(args.a) ? cpu::orthonormalize_matrix<double>(args, context)
                           : cpu::orthonormalize_matrix<float>(args, context);
}

Plan plan_range_finder(const RangeFinderArgs& args, const Context&) {
  return plan("range_finder", start_of(args, args.q.cols), bytes_of(args, args.a));
}

Status range_finder(const RangeFinderArgs& args, const Context& context) {
  record_dispatch(name("range_finder"));
  return is_double(args.a) ? cpu::find_range<double>(args, context) : cpu::find_range<float>(args, context);
}

Plan plan_rsvd(const RsvdArgs& args, const Context&) {
  return plan("rsvd",
              start_of(args.range, args.basis) +
                  "; then eigenvectors of QT A AT Q, or for their digits the SVD of a triangle",
              bytes_of(args, args.range.a));
}

Status rsvd(const RsvdArgs& args, const Context& context) {
  record_dispatch(name("rsvd"));
  return is_double(args.range.a) ? cpu::randomized_svd<double>(args, context)
                                 : cpu::randomized_svd<float>(args, context);
}

const char* polar_name(const PolarArgs& args) { return args.exact ? "polar_exact" : "newton_schulz"; }

Plan plan_polar(const PolarArgs& args, const Context&) {
  return plan(polar_name(args), args.exact ? "the SVD of the triangle of a QR" : "products on the short side",
              bytes_of(args, args.a));
}

Status polar(const PolarArgs& args, const Context& context) {
  record_dispatch(name(polar_name(args)));
  return is_double(args.a) ? cpu::polar_factor<double>(args, context) : cpu::polar_factor<float>(args, context);
}

Plan plan_polar_stack(const BatchedPolarArgs& args, const Context&) {
  return plan("newton_schulz_stack", "matrices that stay in a core's cache, one a core", cpu::workspace_bytes(args));
}

Status polar_stack(const BatchedPolarArgs& args, const Context& context) {
  record_dispatch(name("newton_schulz_stack"));
  return cpu::newton_schulz_stack(args, context);
}

Plan plan_spectral_norm_bound(const SpectralNormBoundArgs& args, const Context&) {
  return plan("spectral_norm_bound", "a Gram iteration in float64, its rounding added", cpu::workspace_bytes(args));
}

Status spectral_norm_bound(const SpectralNormBoundArgs& args, const Context& context) {
  record_dispatch(name("spectral_norm_bound"));
  return cpu::norm_bound(args, context);
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const char* operation :
       {"matrix", "orthonormalize", "range_finder", "rsvd", "polar_exact", "newton_schulz",
        "newton_schulz_stack", "spectral_norm_bound"})
    names.push_back(name(operation));
  return names;
}

}  // namespace

const SketchBackend& sketch_cpu() {
  static constexpr SketchBackend backend{"cpu",
                                         plan_sketch_matrix,
                                         sketch_matrix,
                                         plan_orthonormalize,
                                         orthonormalize,
                                         plan_range_finder,
                                         range_finder,
                                         plan_rsvd,
                                         rsvd,
                                         plan_polar,
                                         polar,
                                         cpu::newton_schulz_in_stack,
                                         plan_polar_stack,
                                         polar_stack,
                                         plan_spectral_norm_bound,
                                         spectral_norm_bound,
                                         kernel_names};
  return backend;
}

}  // namespace lrk
