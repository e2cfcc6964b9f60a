// Processor faults inside a kernel: the process dies of its signal, but first a line says which kernel, block and
// thread it was; handlers that were there before get the signal, and get their place back. Each crash is a child's.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "device/smem.cuh"
#include "emulator_test.h"

namespace lrk {
namespace {

using namespace testing;

/// Deeper than any stack: every call keeps 1000 bytes that nobody may leave out.
int descend(int depth) {
  volatile char kept[1000];
  kept[depth % 1000] = char(depth);
  if (depth == 1 << 20) return 0;
  const int below = descend(depth + 1);  // [recursion]
  return below + kept[depth % 1000];
}
void overflows(int* out) {
  __syncthreads();
  if (blockIdx.x == 1 && threadIdx.x == 37) out[0] = descend(0);
}
/// The frame alone is larger than five stacks.
[[maybe_unused]] void keeps_too_much(int* out) {  // [large frame]
  volatile char kept[300000];
  kept[threadIdx.x] = 1;
  if (threadIdx.x == 32) *out = kept[threadIdx.x];
}
[[maybe_unused]] void divides_by_zero(int* out) {
  const volatile int zero = 0;
  if (threadIdx.x == 33) out[0] = 7 / zero;  // [division]
}
#if !defined(LRK_EMULATOR_CHECKED)
void writes_anywhere(int* out) {
  if (threadIdx.x == 34) *out = 1;
}
void all_write_anywhere(int* out) { out[threadIdx.x] = 1; }
void writes_before_shared(int*) {
  volatile char* shared = dynamic_shared<char>();
  if (threadIdx.x == 35) shared[-3] = 1;
}
#endif

void writes_once(int* out) {
  if (threadIdx.x == 0) *out = 5;
}

struct Outcome {
  std::string text;
  int status = 0;
};

/// What a child that starts `kernel` says, and how it ends.
Outcome outcome_of(void (*kernel)(int*), int* out, void (*handler)(int) = nullptr) {
  std::fflush(stdout);
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    if (handler != nullptr) {
      struct sigaction action = {};
      action.sa_handler = handler, action.sa_flags = SA_ONSTACK;
      sigaction(SIGSEGV, &action, nullptr);
    }
    GlobalMemory memory;
    memory.writes(out, sizeof(int));
    const Status status = start(kernel, dim3(2), dim3(64), 100, out);
    std::fprintf(stderr, "came back: %s\n", status.message.c_str());
    _exit(0);
  }
  close(ends[1]);
  Outcome outcome;
  char buffer[4096];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof(buffer))) > 0;) outcome.text.append(buffer, size_t(got));
  close(ends[0]);
  waitpid(child, &outcome.status, 0);
  return outcome;
}

void expect_crash(const Outcome& outcome, int signal, const char* kernel, const char* thread, const char* marker,
                  const std::string& what) {
  bool good = outcome.text.find(std::string("emulator: kernel ") + kernel + ", block (") != std::string::npos &&
              outcome.text.find(thread) != std::string::npos && outcome.text.find(what) != std::string::npos;
#if defined(LRK_EMULATOR_CHECKED)  // compiled with lines
  good = good && outcome.text.find(line_with(__FILE__, marker)) != std::string::npos;
#else
  (void)marker;
#endif
#if defined(__SANITIZE_ADDRESS__)  // whose handler reports, too, and exits
  good = good && WIFEXITED(outcome.status) && WEXITSTATUS(outcome.status) != 0;
  (void)signal;
#else
  good = good && WIFSIGNALED(outcome.status) && WTERMSIG(outcome.status) == signal;
#endif
  if (!good) std::printf("  status %d, said: \"%s\"\n", outcome.status, outcome.text.c_str());
  expect(good, std::string(kernel) + ": dies of its signal and says where");
}

void test_crashes() {
  int value = 0;
  expect_crash(outcome_of(overflows, &value), SIGSEGV, "overflows", "block (1, 0, 0), thread 37 (37, 0, 0)",
               "recursion", "stack overflow of a CUDA thread, which has 65536 bytes here");
#if !defined(__SANITIZE_ADDRESS__)
  expect_crash(outcome_of(keeps_too_much, &value), SIGSEGV, "keeps_too_much", "thread 0 (0, 0, 0)", "large frame",
               "stack overflow of a CUDA thread");
#endif
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)  // UBSAN, too, sees the division first; ARM gives zero
  expect_crash(outcome_of(divides_by_zero, &value), SIGFPE, "divides_by_zero", "thread 33 (33, 0, 0)", "division",
               "an integer division by zero");
#endif
#if !defined(LRK_EMULATOR_CHECKED) && !defined(__SANITIZE_ADDRESS__)  // both see these before they happen
  expect_crash(outcome_of(writes_anywhere, reinterpret_cast<int*>(0x40)), SIGSEGV, "writes_anywhere",
               "thread 34 (34, 0, 0)", "", "invalid access at address 0x40");
  for (int i = 0; i < 20; ++i)  // two workers crash at once, and the first is heard out
    expect_crash(outcome_of(all_write_anywhere, reinterpret_cast<int*>(0x40)), SIGSEGV, "all_write_anywhere",
                 "thread 0 (0, 0, 0)", "", "invalid access at address 0x40");
  expect_crash(outcome_of(writes_before_shared, &value), SIGSEGV, "writes_before_shared", "thread 35 (35, 0, 0)", "",
               "invalid access at byte -3 of shared memory, which has 100");
#endif
}

void own_handler(int) {
  constexpr char kText[] = "and mine";
  _exit(write(STDERR_FILENO, kText, sizeof(kText) - 1) > 0 ? 7 : 8);
}

void test_other_handlers() {
  int value = 0;
  const Outcome outcome = outcome_of(overflows, &value, own_handler);
  expect(outcome.text.find("stack overflow of a CUDA thread") < outcome.text.find("and mine") &&
             outcome.text.find("and mine") != std::string::npos && WIFEXITED(outcome.status) &&
             WEXITSTATUS(outcome.status) == 7, "the handler before gets the signal");

  struct sigaction mine = {}, found = {};
  mine.sa_handler = own_handler;
  sigaction(SIGSEGV, &mine, &found);
  GlobalMemory memory;
  memory.writes(&value, sizeof(int));
  stack_t stack = {}, stack_after = {};
  sigaltstack(nullptr, &stack);
  expect_silence(start(writes_once, dim3(1), dim3(32), 0, &value), "a kernel that does not crash");
  sigaltstack(nullptr, &stack_after);
  sigaction(SIGSEGV, &found, &mine);
  expect(mine.sa_handler == own_handler, "handlers have their place back after a launch");
  expect(stack.ss_sp == stack_after.ss_sp && stack.ss_flags == stack_after.ss_flags, "and so has their stack");
}

}  // namespace
}  // namespace lrk

int main() {
  lrk::test_crashes();
  lrk::test_other_handlers();
  return lrk::testing::report();
}
