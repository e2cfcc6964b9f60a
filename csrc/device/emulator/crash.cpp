#include "device/emulator/crash.h"

#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <string>

#include "device/emulator/block.h"
#include "device/emulator/watch.h"

namespace lrk::emulator {

namespace {

constexpr std::array kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

struct sigaction previous_actions[kSignals.size()];

struct sigaction& previous_of(int signal) {
  size_t i = 0;
  while (kSignals[i] != signal) ++i;
  return previous_actions[i];
}

/// The thread that crashed first tells; others that crash meanwhile let it finish, since a second signal ends the
/// process.
std::atomic<pid_t> teller{0};
std::atomic<bool> told{false};
std::atomic<bool> outside_a_block{false};

constexpr timespec kPause = {0, 20'000'000};
constexpr int kPausesOfChild = 750, kPausesOfOthers = 900;  // 15 and 18 seconds

/// What happened, without allocating.
void explain(char* text, size_t bytes, const Block& block, const siginfo_t& info) {
  const auto* address = static_cast<const char*>(info.si_addr);
  const ptrdiff_t in_shared = address - block.shared();
  const auto page = ptrdiff_t(page_bytes()), shared_bytes = ptrdiff_t(block.launch().shared_bytes);
  if (info.si_signo == SIGFPE)
    snprintf(text, bytes, "an arithmetic fault, which an integer division by zero is on this processor");
  else if (info.si_signo == SIGILL)
    snprintf(text, bytes, "an illegal instruction, which a trap or code that cannot be reached becomes");
  else if (block.is_below_stack(address))
    snprintf(text, bytes, "stack overflow of a CUDA thread, which has %zu bytes here", block.stack_bytes());
  else if (info.si_code == SI_KERNEL)
    snprintf(text, bytes, "invalid access at an address that no pointer can have");
  else if (in_shared >= -page && in_shared < shared_bytes + 2 * page)
    snprintf(text, bytes, "invalid access at byte %td of shared memory, which has %td", in_shared, shared_bytes);
  else
    snprintf(text, bytes, "invalid access at address %p", info.si_addr);
}

/// Kernel and line need memory and the loader's lock, which the crashed thread may hold. A copy of the process takes
/// them, for some seconds at most. True when it has told all.
bool describe_in_child(const Block& block, const char* what) {
  const pid_t child = pid_t(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));  // no fork handlers
  if (child < 0) return false;
  if (child == 0) {
    for (const int signal : kSignals) std::signal(signal, SIG_DFL);
    Fault fault;
    fault.what = what;
    const std::string text =
        "emulator: " + lrk::emulator::describe(block.launch().kernel, block.completed(std::move(fault))) + "\n";
    _exit(write(STDERR_FILENO, text.data(), text.size()) == ssize_t(text.size()) ? 0 : 1);
  }
  for (int i = 0; i < kPausesOfChild; ++i) {
    int status = 0;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended != 0) return ended < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0);
    nanosleep(&kPause, nullptr);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return false;
}

void tell(const Block& block, const siginfo_t& info) {
  char what[160], text[320];
  explain(what, sizeof(what), block, info);
  if (describe_in_child(block, what)) return;
  const Dim3& at = block.index();
  const int length = snprintf(text, sizeof(text), "emulator: block (%u, %u, %u), thread %zu: %s\n", at.x, at.y, at.z,
                              block.thread(), what);
  if (write(STDERR_FILENO, text, size_t(length)) < 0) return;
}

void on_signal(int signal, siginfo_t* info, void*) {
  watching = nullptr;  // handlers are nobody's business, whoever's they are
  bool again = false;  // sent back by a handler that was set after ours
  if (const Block* block = Block::current(); block != nullptr) {
    const auto self = pid_t(syscall(SYS_gettid));
    pid_t first = 0;
    if (teller.compare_exchange_strong(first, self)) {
      tell(*block, *info);
      told = true;
    } else if (first == self) {
      again = true;
    } else {
      for (int i = 0; i < kPausesOfOthers && !told; ++i) nanosleep(&kPause, nullptr);
    }
  } else {
    again = outside_a_block.exchange(true);
  }
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  // The instruction runs again and faults again, for the handler before this one. A signal that was sent does not.
  sigaction(signal, again ? &standard : &previous_of(signal), nullptr);
  if (info->si_code <= 0) raise(signal);
}

std::mutex mutex;  // guards `users` and what is installed
size_t users = 0;

}  // namespace

CrashReports::CrashReports() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (users++ > 0) return;
  struct sigaction action = {};
  action.sa_sigaction = on_signal, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  teller = 0, told = false, outside_a_block = false;
  for (const int signal : kSignals) sigaction(signal, &action, &previous_of(signal));
}

CrashReports::~CrashReports() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (--users > 0) return;
  for (const int signal : kSignals) {
    struct sigaction now;
    sigaction(signal, nullptr, &now);
    // Who came meanwhile stays, and finds its way through ours to the one before.
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_signal)
      sigaction(signal, &previous_of(signal), nullptr);
  }
}

SignalStack::SignalStack() : pages_(1, 256 << 10) {
  const StackSpan area = pages_.area(0);
  stack_t stack = {};
  stack.ss_sp = area.bottom, stack.ss_size = area.bytes;
  sigaltstack(&stack, &previous_);
}

SignalStack::~SignalStack() { sigaltstack(&previous_, nullptr); }

}  // namespace lrk::emulator
