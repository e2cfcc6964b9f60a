// orthogonal_cpu(): picks the type of the arithmetic, and records what runs.
#include "cpu/orthogonal/block_diagonal.h"
#include "cpu/orthogonal/cayley.h"
#include "cpu/orthogonal/givens.h"
#include "cpu/orthogonal/heuristics.h"
#include "runtime/cpu_features.h"

namespace lrk {
namespace {

#if defined(__x86_64__)
constexpr bool kTestedOnHardware = true;
#else
constexpr bool kTestedOnHardware = false;
#endif

bool is_double(DType dtype) { return dtype == DType::kFloat64; }

std::string name(const char* operation) { return std::string(operation) + "_" + name_of(selected_cpu_isa()); }

Plan plan(const char* operation, std::string reason, size_t workspace) {
  Plan plan;
  plan.kernel = name(operation), plan.reason = std::move(reason);
  plan.workspace_bytes = workspace, plan.hardware_verified = kTestedOnHardware;
  return plan;
}

Plan plan_givens(const GivensArgs& args, const Context&) {
  return plan("givens", "all rounds in one pass over x",
              is_double(args.x.dtype) ? cpu::givens_workspace<double>(args) : cpu::givens_workspace<float>(args));
}

Status givens(const GivensArgs& args, const Context& context) {
  if (args.x.rows == 0 || args.x.cols == 0) return {};
  record_dispatch(name("givens"));
  return is_double(args.x.dtype) ? cpu::givens<double>(args, context) : cpu::givens<float>(args, context);
}

Plan plan_givens_backward(const GivensBackwardArgs& args, const Context&) {
  return plan("givens_backward", "y and its gradient are rotated back together",
              is_double(args.y.dtype) ? cpu::givens_backward_workspace<double>(args)
                                      : cpu::givens_backward_workspace<float>(args));
}

Status givens_backward(const GivensBackwardArgs& args, const Context& context) {
  record_dispatch(name("givens_backward"));
  return is_double(args.y.dtype) ? cpu::givens_backward<double>(args, context)
                                 : cpu::givens_backward<float>(args, context);
}

const char* cayley_name(int64_t terms) { return terms == 0 ? "cayley_inverse" : "cayley_neumann"; }

Plan plan_cayley(const CayleyArgs& args, const Context&) {
  return plan(cayley_name(args.terms), args.terms == 0 ? "a float64 inverse a block" : "products of a block in the caches",
              is_double(args.skew.dtype) ? cpu::cayley_workspace<double>(args) : cpu::cayley_workspace<float>(args));
}

Status cayley(const CayleyArgs& args, const Context& context) {
  if (args.count == 0) return {};
  record_dispatch(name(cayley_name(args.terms)));
  return is_double(args.skew.dtype) ? cpu::cayley<double>(args, context) : cpu::cayley<float>(args, context);
}

const char* cayley_backward_name(int64_t terms) { return terms == 0 ? "cayley_backward" : "cayley_neumann_backward"; }

Plan plan_cayley_backward(const CayleyBackwardArgs& args, const Context&) {
  return plan(cayley_backward_name(args.terms),
              args.terms == 0 ? "two products from R, no solve" : "the series' products from skew",
              is_double(args.grad.dtype) ? cpu::cayley_backward_workspace<double>(args)
                                         : cpu::cayley_backward_workspace<float>(args));
}

Status cayley_backward(const CayleyBackwardArgs& args, const Context& context) {
  if (args.count == 0 || args.block < 2) return {};
  record_dispatch(name(cayley_backward_name(args.terms)));
  return is_double(args.grad.dtype) ? cpu::cayley_backward<double>(args, context)
                                    : cpu::cayley_backward<float>(args, context);
}

bool library_blocks(const char* operation, const MatrixView& x, const MatrixView& blocks, int64_t block) {
  return cpu::uses_library_blocks(x.dtype, blocks.dtype, block, name(operation), forced_kernel());
}

/// What the library's way allocates beside the results: a product of several blocks is a batch, which is copied to where
/// its columns belong.
size_t library_workspace(const MutableMatrixView& product, const MatrixView& blocks, int64_t block) {
  if (!product.present() || blocks.rows == block) return 0;
  return size_t(product.rows * product.cols) * size_of(product.dtype);
}

/// Of block-diagonal products: ours, or the library's. `product` is what is as large as x.
Plan plan_blocks(const char* operation, const MatrixView& x, const MatrixView& blocks, int64_t block,
                 const MutableMatrixView& product, Plan ours) {
  const bool preferred = cpu::prefers_library_blocks(x.dtype, blocks.dtype, block, cpu_info(), selected_cpu_isa());
  const bool library = library_blocks(operation, x, blocks, block);
  const char* const why = preferred ? "wide blocks of one dtype: the library's products were measured faster here"
                                    : "narrow blocks, several dtypes, or a CPU on which the library is not faster";
  const std::string forced = "force(\"" + forced_kernel() + "\")", other = library ? ours.kernel : cpu::kLibraryProduct;
  if (library) {
    ours.kernel = cpu::kLibraryProduct, ours.library_gemm = true;
    ours.workspace_bytes = library_workspace(product, blocks, block);
  }
  if (library != preferred) ours.reason = forced;
  else if (library) ours.reason = why;
  ours.rejected.push_back({other, library != preferred ? forced : why});
  return ours;
}

Plan plan_block_diagonal(const BlockDiagonalArgs& args, const Context&) {
  return plan_blocks("block_diagonal", args.x, args.blocks, args.block, args.y,
                     plan("block_diagonal", "matrices packed once, x and y passed once",
                          is_double(args.x.dtype) ? cpu::block_diagonal_workspace<double>(args)
                                                  : cpu::block_diagonal_workspace<float>(args)));
}

bool library_block_diagonal(const BlockDiagonalArgs& args) {
  return library_blocks("block_diagonal", args.x, args.blocks, args.block);
}

bool library_block_diagonal_backward(const BlockDiagonalBackwardArgs& args) {
  return library_blocks("block_diagonal_backward", args.grad, args.blocks, args.block);
}

Status block_diagonal(const BlockDiagonalArgs& args, const Context& context) {
  if (args.x.rows == 0 || args.x.cols == 0) return {};
  record_dispatch(name("block_diagonal"));
  return is_double(args.x.dtype) ? cpu::block_diagonal<double>(args, context)
                                 : cpu::block_diagonal<float>(args, context);
}

Plan plan_block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context&) {
  return plan_blocks("block_diagonal_backward", args.grad, args.blocks, args.block, args.dx,
                     plan("block_diagonal_backward",
                          args.dx.present() ? "dx and dblocks from one reading of x and grad" : "dblocks alone",
                          is_double(args.grad.dtype) ? cpu::block_diagonal_backward_workspace<double>(args)
                                                     : cpu::block_diagonal_backward_workspace<float>(args)));
}

Status block_diagonal_backward(const BlockDiagonalBackwardArgs& args, const Context& context) {
  if (args.x.rows == 0 || args.x.cols == 0) return {};
  record_dispatch(name("block_diagonal_backward"));
  return is_double(args.grad.dtype) ? cpu::block_diagonal_backward<double>(args, context)
                                    : cpu::block_diagonal_backward<float>(args, context);
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const char* operation : {"givens", "givens_backward", "cayley_inverse", "cayley_neumann", "cayley_backward",
                                "cayley_neumann_backward", "block_diagonal", "block_diagonal_backward"})
    names.push_back(name(operation));
  return names;
}

}  // namespace

const OrthogonalBackend& orthogonal_cpu() {
  static constexpr OrthogonalBackend backend{"cpu",
                                             plan_givens,
                                             givens,
                                             plan_givens_backward,
                                             givens_backward,
                                             plan_cayley,
                                             cayley,
                                             plan_cayley_backward,
                                             cayley_backward,
                                             plan_block_diagonal,
                                             block_diagonal,
                                             plan_block_diagonal_backward,
                                             block_diagonal_backward,
                                             kernel_names,
                                             library_block_diagonal,
                                             library_block_diagonal_backward};
  return backend;
}

}  // namespace lrk
