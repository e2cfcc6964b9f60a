// The benchmark's own parts: a benchmark that cannot see a wrong result, or miscounts its time, is worse than none.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "lrk_bench/arena.h"
#include "lrk_bench/arguments.h"
#include "lrk_bench/element.h"
#include "lrk_bench/report.h"
#include "lrk_bench/run.h"
#include "lrk_bench/thread_pool.h"

namespace {

using namespace lrk;
using namespace lrk::bench;

int failures = 0;

void check(bool condition, const char* what, int line) {
  if (condition) return;
  ++failures;
  std::printf("FAIL line %d: %s\n", line, what);
}
#define CHECK(condition) check(condition, #condition, __LINE__)

// --- numbers ---------------------------------------------------------------------------------------------------------

void test_elements() {
  for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    int changed = 0;
    for (int bits = 0; bits < 65536; ++bits) {
      const uint16_t pattern = uint16_t(bits);
      const double value = load(dtype, &pattern, 0);
      uint16_t back = 0;
      store(dtype, &back, 0, value);
      changed += std::isnan(value) ? !std::isnan(load(dtype, &back, 0)) : back != pattern;
    }
    CHECK(changed == 0);
    // Ties go to the even neighbour, up and down.
    const double unit = 2 * unit_roundoff(dtype);
    uint16_t stored;
    store(dtype, &stored, 0, 1 + unit * 0.5);
    CHECK(load(dtype, &stored, 0) == 1);
    store(dtype, &stored, 0, 1 + unit * 1.5);
    CHECK(load(dtype, &stored, 0) == 1 + 2 * unit);
    store(dtype, &stored, 0, 2 - unit * 0.25);  // carries into the exponent
    CHECK(load(dtype, &stored, 0) == 2);
    store(dtype, &stored, 0, -1e300);
    CHECK(load(dtype, &stored, 0) == -INFINITY);
  }
  uint16_t half;
  store(DType::kFloat16, &half, 0, 65504.0);
  CHECK(half == 0x7bff);
  store(DType::kFloat16, &half, 0, 65520.0);
  CHECK(half == 0x7c00);
  store(DType::kFloat16, &half, 0, std::ldexp(1.0, -24));
  CHECK(half == 1);
  store(DType::kBFloat16, &half, 0, -1.5);
  CHECK(half == 0xbfc0);
}

void test_thread_pool() {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int64_t tasks : {0, 1, 3, 1000}) {
      for (int turn = 0; turn < 200; ++turn) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(tasks));
        pool.parallel_for(tasks, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++seen[size_t(i)];
        });
        for (const auto& times : seen) CHECK(times == 1);
      }
    }
    std::atomic<int> inner{0};
    pool.parallel_for(4, [&](int64_t begin, int64_t end) {
      pool.parallel_for(end - begin, [&](int64_t first, int64_t last) { inner += int(last - first); });
    });
    CHECK(inner == 4);
  }
}

struct CountedMemory {
  int* live;
  void* allocate(size_t bytes) { return ++*live, std::aligned_alloc(256, bytes); }
  void release(void* data) { --*live, std::free(data); }
};

void test_arena() {
  int live = 0;
  {
    Arena<CountedMemory> arena(CountedMemory{&live});
    char* first = static_cast<char*>(arena.allocate(1000));
    char* second = static_cast<char*>(arena.allocate(5000));
    CHECK(reinterpret_cast<uintptr_t>(first) % 256 == 0 && reinterpret_cast<uintptr_t>(second) % 256 == 0);
    std::memset(first, 1, 1000), std::memset(second, 2, 5000);
    CHECK(first[999] == 1);
    CHECK(live == 2);
    arena.start_call();
    CHECK(live == 1);  // one block that holds both from now on
    arena.allocate(1000), arena.allocate(5000);
    CHECK(live == 1);
    arena.start_call();
    arena.allocate(6144);
    CHECK(live == 1);
  }
  CHECK(live == 0);
}

// --- time ------------------------------------------------------------------------------------------------------------

void test_summary() {
  std::vector<double> samples;
  for (int i = 0; i < 101; ++i) samples.push_back(double((i * 37) % 101));  // 0 ... 100, shuffled
  const Measurement wide = summarize(samples, 0.02);
  CHECK(wide.median_us == 50 && wide.samples == 101 && !wide.settled);
  CHECK(wide.low_us == 40 && wide.high_us == 60);  // 50 -+ 0.98 sqrt(101), outwards
  CHECK(summarize(samples, 0.2).settled);
  CHECK(summarize({3, 1, 2, 4}, 1).median_us == 2.5);
  CHECK(!summarize({5, 5, 5}, 0.02).settled);  // agreement of three proves nothing
  CHECK(summarize(std::vector<double>(size_t(kMinRounds), 5.0), 0.02).settled);
  // One outlier among many does not move the median or keep it from settling.
  std::vector<double> calm(40, 5.0);
  calm[7] = 500;
  CHECK(summarize(calm, 0.02).median_us == 5 && summarize(calm, 0.02).settled);
}

// --- arguments -------------------------------------------------------------------------------------------------------

std::string error_of(const std::vector<std::string>& words) {
  try {
    parse_arguments(words);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void test_arguments() {
  const Arguments preset = parse_arguments({"run", "lowrank_linear", "--preset", "llama3-8b", "--tokens", "1,16,512"});
  CHECK(preset.cases.size() == 12);
  CHECK(preset.cases[0].n == 4096 && preset.cases[0].k == 4096 && preset.cases[0].label == "q, o");
  CHECK(preset.cases[11].n == 4096 && preset.cases[11].k == 14336 && preset.cases[11].m == 512);
  const Arguments lists = parse_arguments({"run", "factor_grad", "--dtype", "bf16,fp32", "--rank", "8,16", "--m", "7",
                                           "--factors", "fp32", "--mode", "batch", "--kernel", "avx2"});
  CHECK(lists.cases.size() == 4 && lists.cases[3].rank == 16 && lists.cases[0].m == 7);
  CHECK(lists.cases[0].dtype == DType::kBFloat16 && lists.cases[0].factor_dtype == DType::kFloat32);
  CHECK(lists.timing.mode == Mode::kBatch && lists.kernel == "avx2");

  CHECK(contains(error_of({}), "no command"));
  CHECK(contains(error_of({"dance"}), "'dance', expected one of list, run"));
  CHECK(contains(error_of({"run"}), "no operation"));
  CHECK(contains(error_of({"run", "gemm"}), "'gemm', expected one of lowrank_linear"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--m", "0"}), "--m is '0', expected a whole number from 1"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--m", "12x"}), "--m is '12x'"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--n", "99999999999999999999"}), "--n is"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--rank", "1,,2"}), "--rank is ''"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--dtype", "int8"}), "--dtype is 'int8', expected one of fp32"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--factors", "fp16", "--dtype", "bf16"}), "--factors is 'fp16'"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--dropout", "1.5"}), "--dropout is '1.5', expected a number"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--dropout", "nan"}), "--dropout is 'nan'"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--device", "tpu"}), "--device is 'tpu'"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--preset", "gpt9"}), "'gpt9', expected one of llama3-8b"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--preset", "llama3-8b", "--n", "5"}), "--n cannot be given"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--m"}), "--m needs a value"));
  CHECK(contains(error_of({"run", "lowrank_linear", "--speed", "9"}), "'--speed' is not an argument"));
}

// --- verification: tables of functions that are wrong in one way each --------------------------------------------------

LowRankBackend table_with(Status (*linear)(const LinearArgs&, const Context&)) {
  LowRankBackend backend = lowrank_cpu();
  backend.linear = linear;
  return backend;
}

Status without_last_rank(const LinearArgs& args, const Context& context) {
  LinearArgs less = args;
  if (args.s.cols > 0) less.s.cols = less.up.cols = args.s.cols - 1;
  return lowrank_cpu().linear(less, context);
}
Status without_last_row(const LinearArgs& args, const Context& context) {
  LinearArgs less = args;
  for (MatrixView* view : {&less.x, &less.base, &less.s})
    if (view->present()) --view->rows;
  --less.y.rows;
  return lowrank_cpu().linear(less, context);
}
Status slightly_off(const LinearArgs& args, const Context& context) {
  const Status status = lowrank_cpu().linear(args, context);
  const double value = load(args.y.dtype, args.y.data, 0);
  // Beyond what the roundings of a sum allow, yet closer than any missing term would be.
  const double units = size_of(args.y.dtype) > 2 ? 400 : 64;
  store(args.y.dtype, args.y.data, 0, value + units * unit_roundoff(args.y.dtype));
  return status;
}
Status gives_up(const LinearArgs&, const Context&) { return {StatusCode::kDeviceError, "the sky fell"}; }

Case low_rank_case(Operation operation, int64_t m, int64_t n, int64_t k, int64_t rank, DType dtype) {
  Case c;
  c.operation = operation, c.m = m, c.n = n, c.k = k, c.rank = rank, c.dtype = c.factor_dtype = dtype;
  return c;
}

Status without_last_round(const GivensArgs& args, const Context& context) {
  GivensArgs fewer = args;
  --fewer.rounds.angles.rows;
  return orthogonal_cpu().givens(fewer, context);
}
Status of_other_rows(const GivensBackwardArgs& args, const Context& context) {
  GivensBackwardArgs fewer = args;  // dx of every row, dangles of all but the last
  const Status status = orthogonal_cpu().givens_backward(args, context);
  if (!status.ok()) return status;
  --fewer.y.rows, --fewer.grad.rows, --fewer.dx.rows;
  return orthogonal_cpu().givens_backward(fewer, context);
}

CaseReport report_of(const Backends& backends, const Case& c) {
  const std::unique_ptr<Device> device = make_host_device(backends, 2, false);
  TimingOptions options;
  options.seconds = 0.001;
  return run_case(c, *device, nullptr, options, "");
}

void test_verification() {
  const MachineReport machine{"0", "g++", "cpu", "a, \"b\"", "now", 10, {}};
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    for (Operation operation : {Operation::kLinear, Operation::kBackward}) {
      const Case c = low_rank_case(operation, 40, 48, 56, 4, dtype);
      const CaseReport right = report_of({lowrank_cpu(), orthogonal_cpu()}, c);
      CHECK(!right.failed() && right.contenders.size() == 2);
      CHECK(right.contenders[0].time.samples > 0 && right.contenders[0].gflops > 0);
      CHECK(right.contenders[0].verification.checked == right.contenders[0].verification.total);
      for (auto* wrong : {without_last_rank, without_last_row, slightly_off, gives_up}) {
        const LowRankBackend backend = table_with(wrong);
        const CaseReport report = report_of({backend, orthogonal_cpu()}, c);
        CHECK(report.failed());
        const ContenderReport& ours = report.contenders[0];
        CHECK(!ours.verification.ok && !ours.verification.failure.empty() && ours.time.samples == 0);
        CHECK(contains(to_table(machine, {report}), "FAILED"));
        CHECK(contains(to_csv(machine, {report}), "lrkernels,FAILED,,,"));
        CHECK(contains(to_json(machine, {report}), "\"status\": \"FAILED\""));
        CHECK(!contains(to_json(machine, {report}), "\"us\""));
      }
    }
  }
  CHECK(contains(to_json(machine, {}), "a, \\\"b\\\""));
}

void test_verification_of_givens() {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    Case c;
    c.operation = Operation::kGivens, c.m = 33, c.k = 61, c.rounds = 8, c.dtype = dtype;
    const CaseReport right = report_of({lowrank_cpu(), orthogonal_cpu()}, c);
    const bool half = size_of(dtype) == 2;
    CHECK(!right.failed() && right.contenders.size() == (half ? 2 : 3));
    OrthogonalBackend wrong = orthogonal_cpu();
    wrong.givens = without_last_round;
    CHECK(report_of({lowrank_cpu(), wrong}, c).contenders[0].verification.failure != "");
    c.operation = Operation::kGivensBackward;
    CHECK(!report_of({lowrank_cpu(), orthogonal_cpu()}, c).failed());
    wrong.givens_backward = of_other_rows;
    CHECK(report_of({lowrank_cpu(), wrong}, c).failed());
    c.rounds = 0;
    CHECK(!report_of({lowrank_cpu(), orthogonal_cpu()}, c).failed());
  }
}

Status of_the_first_block(const BlockDiagonalArgs& args, const Context& context) {
  BlockDiagonalArgs one = args;
  one.blocks.rows = args.block;  // its matrix for all blocks
  return orthogonal_cpu().block_diagonal(one, context);
}
Status without_last_row(const BlockDiagonalBackwardArgs& args, const Context& context) {
  const Status status = orthogonal_cpu().block_diagonal_backward(args, context);
  if (!status.ok()) return status;
  BlockDiagonalBackwardArgs fewer = args;
  --fewer.x.rows, --fewer.grad.rows, --fewer.dx.rows;
  return orthogonal_cpu().block_diagonal_backward(fewer, context);
}
Status series(const CayleyArgs& args, const Context& context) {
  CayleyArgs five = args;
  five.terms = 5;
  return orthogonal_cpu().cayley(five, context);
}

void test_verification_of_blocks() {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    for (Operation operation : {Operation::kBlockDiagonal, Operation::kBlockDiagonalBackward, Operation::kCayley}) {
      Case c;
      c.operation = operation, c.m = 33, c.k = 60, c.block = 12, c.dtype = dtype;
      CHECK(!report_of({lowrank_cpu(), orthogonal_cpu()}, c).failed());
      OrthogonalBackend wrong = orthogonal_cpu();
      wrong.block_diagonal = of_the_first_block, wrong.block_diagonal_backward = without_last_row, wrong.cayley = series;
      CHECK(report_of({lowrank_cpu(), wrong}, c).contenders[0].verification.failure != "");
    }
  }
}

/// Sampled cases still see an error at the edges.
void test_sampling() {
  Case c = low_rank_case(Operation::kLinear, 700, 600, 500, 8, DType::kFloat32);
  c.dropout = 0.1, c.bias = true;
  const CaseReport right = report_of({lowrank_cpu(), orthogonal_cpu()}, c);
  CHECK(!right.failed());
  const Verification& verified = right.contenders[0].verification;
  CHECK(verified.checked > 1000 && verified.checked < verified.total);
  CHECK(report_of({table_with(without_last_row), orthogonal_cpu()}, c).failed());
  CHECK(report_of({table_with(without_last_rank), orthogonal_cpu()}, c).failed());
  CHECK(report_of({table_with(slightly_off), orthogonal_cpu()}, c).failed());
}

void test_roofline() {
  const std::unique_ptr<Device> device = make_host_device({lowrank_cpu(), orthogonal_cpu()}, 1, false);
  Roofline roofline(*device);
  CHECK(roofline.share(1, 1, 1, DType::kFloat32).percent == 0);  // nothing is known yet
  roofline.measure(DType::kFloat32);
  const double peak = roofline.peaks().at(DType::kFloat32).gflops, bandwidth = roofline.bandwidth();
  CHECK(peak > 0.1 && bandwidth > 0.1);
  const Roofline::Share compute = roofline.share(1000, peak * 0.5e6, bandwidth * 1e5, DType::kFloat32);
  CHECK(std::fabs(compute.percent - 50) < 1e-6 && compute.compute_bound);
  const Roofline::Share memory = roofline.share(1000, peak * 1e5, bandwidth * 0.25e6, DType::kFloat32);
  CHECK(std::fabs(memory.percent - 25) < 1e-6 && !memory.compute_bound);
}

void test_costs() {
  const Case c = low_rank_case(Operation::kLinear, 10, 20, 30, 2, DType::kFloat32);
  CHECK(flops(c) == 2.0 * (10 * 20 * 30 + 10 * 2 * 30 + 10 * 2 * 20));
  CHECK(compulsory_bytes(c) == 4.0 * (10 * 30 + 20 * 30 + 2 * 30 + 20 * 2 + 10 * 20));
}

}  // namespace

int main() {
  test_elements();
  test_thread_pool();
  test_arena();
  test_summary();
  test_arguments();
  test_verification();
  test_verification_of_givens();
  test_verification_of_blocks();
  test_sampling();
  test_roofline();
  test_costs();
  std::printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
