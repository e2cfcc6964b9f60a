// Who is measured on a case: the fused kernels first, then the baselines they are compared with.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cublaslt.h"
#include "problem.h"

namespace lrk::bench {

struct Contender {
  std::string name;
  std::string what;  // one line for `list` and the JSON
  Call call;
  std::vector<Result> results;
};

/// The first is lrkernels. `notes` receives why a baseline is not there.
///   unfused          dense product, project, expand onto it: the same backend, a call each
///   cublaslt_dense   only the dense product: what the layer costs without its low-rank term
///   cublaslt_chain   every product by cuBLASLt, the last ones accumulating
///   library_path     cuBLASLt for the dense product, lrkernels for the rest: what the torch op does by default
std::vector<Contender> contenders_of(const Problem& problem, CublasLt* library, std::vector<std::string>* notes);

}  // namespace lrk::bench
