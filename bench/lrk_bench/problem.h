// The operations that can be measured: their operands, the calls that compute them, what they must cost.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cublaslt.h"
#include "device.h"
#include "matrix.h"
#include "verify.h"

namespace lrk::bench {

enum class Operation {
  kLinear, kProject, kExpand, kFactorGrad, kBackward,
  kGivens, kGivensBackward, kBlockDiagonal, kBlockDiagonalBackward, kCayley
};
enum class Family { kLowRank, kGivens, kBlocks };

struct OperationInfo {
  Operation operation;
  Family family;
  const char* name;
  const char* equation;
};
const std::vector<OperationInfo>& operations();

/// x is [m, k]; low-rank: weight [n, k], down [rank, k], up [n, rank]; Givens: `rounds` of k / 2 angles; blocks: k / block
/// matrices [block, block].
struct Case {
  Operation operation = Operation::kLinear;
  std::string label;  // "q, o" of a preset; empty otherwise
  int64_t m = 512, n = 1024, k = 1024, rank = 16, rounds = 12, block = 32;
  DType dtype = DType::kFloat32;
  DType factor_dtype = DType::kFloat32;  // down, up and bias
  double dropout = 0;
  bool bias = false;
};

std::string name_of(const Case& c);

const OperationInfo& info_of(const Case& c);

/// Without what the operation does not have (a bias, dropout, factors), and its sizes 0.
Case relevant(Case c);

/// The sizes an operation has, by their names on the command line.
struct Size {
  const char* name;
  int64_t Case::* member;
};
const std::vector<Size>& sizes_of(const Case& c);

/// The arithmetic, and the bytes that must move when everything is read and written once.
double flops(const Case& c);
double compulsory_bytes(const Case& c);

/// Who is measured on a case.
struct Contender {
  std::string name;
  std::string what;  // one line
  Call call;
  std::vector<Result> results;
};

/// One case's operands on a device, the calls that compute it, and what must come out.
class Problem {
 public:
  Problem(const Case& c_, Device& device_) : c(c_), device(device_) {}
  virtual ~Problem() = default;
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  const Case c;
  Device& device;

  /// lrkernels first, then the baselines it is compared with. `notes` receives why a baseline is not there.
  virtual std::vector<Contender> contenders(CublasLt* library, std::vector<std::string>* notes) const = 0;
  /// What the torch op would run when that is not a kernel of ours; empty otherwise.
  virtual std::string library_plan() const { return {}; }
};

/// A copy of x, [m, k]: the bytes that an operation on x cannot avoid.
Contender copy_contender(const Problem& problem, const Matrix& x, Matrix& to);

std::unique_ptr<Problem> make_problem(const Case& c, Device& device);

}  // namespace lrk::bench
