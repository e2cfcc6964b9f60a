// Problems side by side (lrk/side_by_side.h): each once, with its own memory, and which failure is reported.
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "cpu_test.h"
#include "lrk/side_by_side.h"

namespace {

using namespace lrk;
using namespace lrk::testing;

/// Every problem once, whatever the threads; work memory is one problem's at a time; the first failure is reported.
void check_side_by_side() {
  constexpr int64_t kCount = 300;
  TestContext test;
  test.context.parallel_for = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
    std::thread half([&] { body(0, tasks / 2); });
    body(tasks / 2, tasks);
    half.join();
  };
  std::vector<int> times(kCount, 0), spoiled(kCount, 0);
  const auto one = [&](int64_t index, const Context& own) -> Status {
    double* const first = static_cast<double*>(own.allocate(800));
    double* const second = static_cast<double*>(own.allocate(80));
    std::fill_n(first, 100, double(index)), std::fill_n(second, 10, -1.0);
    own.parallel_for(5, [&](int64_t begin, int64_t end) { times[size_t(index)] += int(end - begin); });
    spoiled[size_t(index)] = int(std::count(first, first + 100, double(index)) != 100);
    return index % 70 == 69 ? Status::invalid("problem " + std::to_string(index)) : Status{};
  };
  const Status status = run_side_by_side(kCount, test.context, one);
  expect(status.message == "problem 69", "side by side: the first failure is " + status.message);
  expect(times == std::vector<int>(kCount, 5), "side by side: not every problem once");
  expect(spoiled == std::vector<int>(kCount, 0), "side by side: two problems have the same memory");
  expect(test.memory.size() <= 4, "side by side: memory is not used again");
  expect(run_side_by_side(0, test.context, one).ok(), "side by side: no problems");
}

}  // namespace

int main() {
  check_side_by_side();
  expect(goes_side_by_side(64, 1 << 20) && !goes_side_by_side(2, 1 << 20) && !goes_side_by_side(64, 1 << 30),
         "side by side: which stacks");
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks == 6 ? 0 : 1;
}
