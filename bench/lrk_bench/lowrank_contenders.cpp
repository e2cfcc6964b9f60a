#include "lowrank_problem.h"

namespace lrk::bench {
namespace {

/// The products of a case, each by the library's GEMM.
Status run_chain(const LowRankProblem& p, CublasLt& library) {
  const auto gemm = [&](const MatrixView& left, const MatrixView& right, double scale, bool add,
                        const MutableMatrixView& to) { return library.gemm(left, right, scale, add, to); };
  const auto transposed = [](const MatrixView& view) { return view.transposed(); };
  Status status;
  switch (p.c.operation) {
    case Operation::kProject: return gemm(p.x->view(), p.down->view(), 1, false, p.s->view());
    case Operation::kExpand:
      if (status = p.device.copy(p.y->view().data, p.base->view().data, p.y->bytes()); !status.ok()) return status;
      return gemm(p.s->view(), p.up->view(), p.scale, true, p.y->view());
    case Operation::kLinear:
      if (status = gemm(p.x->view(), p.weight->view(), 1, false, p.y->view()); !status.ok()) return status;
      if (status = gemm(p.x->view(), p.down->view(), 1, false, p.s->view()); !status.ok()) return status;
      return gemm(p.s->view(), p.up->view(), p.scale, true, p.y->view());
    default: break;  // the gradients
  }
  if (status = gemm(p.dy->view(), transposed(p.up->view()), p.scale, false, p.ds->view()); !status.ok()) return status;
  if (p.dx) {
    if (status = gemm(p.dy->view(), transposed(p.weight->view()), 1, false, p.dx->view()); !status.ok()) return status;
    if (status = gemm(p.ds->view(), transposed(p.down->view()), 1, true, p.dx->view()); !status.ok()) return status;
  }
  if (status = gemm(transposed(p.ds->view()), transposed(p.x->view()), 1, false, p.ddown->view()); !status.ok())
    return status;
  return gemm(transposed(p.dy->view()), transposed(p.s->view()), p.scale, false, p.dup->view());
}

Status run_dense(const LowRankProblem& p, CublasLt& library) {
  return p.c.operation == Operation::kLinear
             ? library.gemm(p.x->view(), p.weight->view(), 1, false, p.y->view())
             : library.gemm(p.dy->view(), MatrixView(p.weight->view()).transposed(), 1, false, p.dx->view());
}

Status run_library_path(const LowRankProblem& p, CublasLt& library) {
  p.device.start_call();
  if (Status status = run_dense(p, library); !status.ok()) return status;
  if (Status status = p.project(p.x->view(), p.down->view(), 1, p.dropout(), p.s->view()); !status.ok()) return status;
  LinearArgs args;
  args.base = p.y->view(), args.s = p.s->view(), args.up = p.up->view(), args.bias = p.bias_view();
  args.scale = p.scale, args.y = p.y->view();
  return p.device.lowrank().linear(args, p.device.context());
}

}  // namespace

std::vector<Contender> LowRankProblem::contenders(CublasLt* library, std::vector<std::string>* notes) const {
  const LowRankProblem* const p = this;
  std::vector<Contender> contenders;
  contenders.push_back({"lrkernels", "the fused kernels", [p] { return p->run_fused(); }, p->results(Path::kFused)});
  if (has_unfused()) {
    contenders.push_back({"unfused", "the same backend, each product a call of its own",
                          [p] { return p->run_unfused(); }, p->results(Path::kChained)});
  }
  if (library == nullptr || device.name() != "cuda") return contenders;

  const bool one_dtype = c.factor_dtype == c.dtype;
  if (has_unfused() && !c.bias) {
    contenders.push_back({"cublaslt_dense", "the dense product alone, without the low-rank term",
                          [p, library] { return run_dense(*p, *library); }, p->results(Path::kDenseOnly)});
    // The dense path leaves the gradients of the factors alone.
    if (c.operation == Operation::kBackward) contenders.back().results.resize(1);
  }
  if (c.operation == Operation::kLinear) {
    contenders.push_back({"library_path", "cuBLASLt for the dense product, lrkernels for the rest",
                          [p, library] { return run_library_path(*p, *library); }, p->results(Path::kChained)});
  }
  if (c.dropout > 0 || !one_dtype || c.bias) {
    notes->push_back("no cublaslt_chain: a plain GEMM has no dropout, mixed dtypes or bias here");
    return contenders;
  }
  contenders.push_back({"cublaslt_chain", "every product by cuBLASLt",
                        [p, library] { return run_chain(*p, *library); }, p->results(Path::kChained)});
  return contenders;
}

}  // namespace lrk::bench
