#include "torch/cayley_checks.h"

#include "torch/argument_checks.h"

namespace lrk::binding {
namespace {

void check_map(const char* op, int64_t block, const std::string& method, int64_t terms) {
  if (block < 1) fail(op, "block is " + std::to_string(block) + ", expected at least 1");
  if (method != "exact" && method != "neumann")
    fail(op, "method is '" + method + "', expected 'exact' or 'neumann'");
  if (terms < 1) fail(op, "terms is " + std::to_string(terms) + ", expected at least 1");
}

void check_skew(const char* op, const char* name, const Tensor& skew, int64_t block) {
  check_matrix(op, name, skew, "(blocks, block * (block - 1) / 2)");
  check_activation(op, name, skew);
  const int64_t triangle = block * (block - 1) / 2;
  if (skew.size(1) != triangle)
    fail(op, std::string(name) + " has shape " + shape_string(skew) + ", expected (blocks, " +
                 std::to_string(triangle) + ") because block is " + std::to_string(block));
}

}  // namespace

void check_cayley(const char* op, const Tensor& skew, int64_t block, const std::string& method, int64_t terms) {
  check_defined(op, {{"skew", &skew}});
  check_map(op, block, method, terms);
  check_skew(op, "skew", skew, block);
}

void check_cayley_backward(const char* op, const Tensor& grad, const Tensor& saved, int64_t block,
                           const std::string& method, int64_t terms) {
  check_defined(op, {{"grad", &grad}, {"saved", &saved}});
  check_map(op, block, method, terms);
  check_activation(op, "grad", grad);
  if (grad.dim() != 3 || grad.size(1) != block || grad.size(2) != block)
    fail(op, "grad has shape " + shape_string(grad) + ", expected (blocks, block, block) with block " +
                 std::to_string(block));
  check_kind(op, "saved", saved, "grad", grad, false);
  if (method == "exact") {
    if (saved.dim() != 3 || saved.size(0) != grad.size(0) || saved.size(1) != block || saved.size(2) != block)
      fail(op, "saved has shape " + shape_string(saved) + ", expected " + shape_string(grad) + ", the shape of grad");
    return;
  }
  check_skew(op, "saved", saved, block);
  if (saved.size(0) != grad.size(0))
    fail(op, "saved has shape " + shape_string(saved) + ", expected " + std::to_string(grad.size(0)) +
                 " rows because grad is " + shape_string(grad));
}

}  // namespace lrk::binding
