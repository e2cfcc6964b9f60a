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

struct Handled {
  struct sigaction previous;
  std::atomic<bool> entered{false};
};
Handled handled[kSignals.size()];

Handled& handled_of(int signal) {
  size_t i = 0;
  while (kSignals[i] != signal) ++i;
  return handled[i];
}

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
  constexpr int kTenthsOfASecond = 150;
  for (int i = 0; i < kTenthsOfASecond; ++i) {
    int status = 0;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended != 0) return ended < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0);
    const timespec pause = {0, 100'000'000};
    nanosleep(&pause, nullptr);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return false;
}

void on_signal(int signal, siginfo_t* info, void*) {
  watching = nullptr;  // handlers are nobody's business, whoever's they are
  Handled& here = handled_of(signal);
  const bool again = here.entered.exchange(true);  // sent back by a handler that was set after ours
  if (const Block* block = Block::current(); block != nullptr && !again) {
    char what[160], text[320];
    explain(what, sizeof(what), *block, *info);
    if (!describe_in_child(*block, what)) {
      const Dim3& at = block->index();
      const int length = snprintf(text, sizeof(text), "emulator: block (%u, %u, %u), thread %zu: %s\n", at.x, at.y,
                                  at.z, block->thread(), what);
      if (write(STDERR_FILENO, text, size_t(length)) < 0) return;
    }
  }
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  // The instruction runs again and faults again, for the handler before this one. A signal that was sent does not.
  sigaction(signal, again ? &standard : &here.previous, nullptr);
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
  for (const int signal : kSignals) {
    handled_of(signal).entered = false;
    sigaction(signal, &action, &handled_of(signal).previous);
  }
}

CrashReports::~CrashReports() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (--users > 0) return;
  for (const int signal : kSignals) {
    struct sigaction now;
    sigaction(signal, nullptr, &now);
    // Who came meanwhile stays, and finds its way through ours to the one before.
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_signal)
      sigaction(signal, &handled_of(signal).previous, nullptr);
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
