// One CUDA thread as a fiber: a stack of its own and a switch that saves what the calling convention says survives a
// call. A fiber never leaves the operating-system thread it was started on, so thread_local addresses stay valid
// across a switch; the switch itself is opaque to the compiler, so values are read again after it.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) && !defined(LRK_FIBER_UCONTEXT)
#define LRK_FIBER_UCONTEXT
#endif
#if defined(LRK_FIBER_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace lrk::emulator {

struct StackSpan {
  char* bottom = nullptr;
  size_t bytes = 0;
};

#if !defined(LRK_FIBER_UCONTEXT)
/// Pushes the callee-saved registers, stores the stack pointer in *save, continues at the stack pointer `load`.
extern "C" inline __attribute__((naked, noinline)) void lrk_fiber_switch(void** /*save*/, void* /*load*/) {
  __asm__ volatile(
      "pushq %%rbp\n pushq %%rbx\n pushq %%r12\n pushq %%r13\n pushq %%r14\n pushq %%r15\n"
      "movq %%rsp, (%%rdi)\n movq %%rsi, %%rsp\n"
      "popq %%r15\n popq %%r14\n popq %%r13\n popq %%r12\n popq %%rbx\n popq %%rbp\n"
      "ret\n" ::: "memory");
}

/// Where a fresh fiber's first switch returns to: calls r13(r12), which never returns.
extern "C" inline __attribute__((naked, noinline)) void lrk_fiber_start() {
  __asm__ volatile("movq %%r12, %%rdi\n callq *%%r13\n ud2\n" ::: "memory");
}
#endif

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  /// Makes the fiber ready to run entry(argument) on `stack`; `entry` must leave by a switch, not by returning.
  void prepare(StackSpan stack, Entry entry, void* argument) {
    stack_ = stack;
#if defined(__SANITIZE_ADDRESS__)
    // An earlier fiber left this stack without returning from its frames.
    __asan_unpoison_memory_region(stack.bottom, stack.bytes);
#endif
#if defined(LRK_FIBER_UCONTEXT)
    entry_ = entry, argument_ = argument;
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom;
    context_.uc_stack.ss_size = stack.bytes;
    context_.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(this);  // makecontext passes ints only
    makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::start), 2, unsigned(self),
                unsigned(uint64_t(self) >> 32));
#else
    void** top = reinterpret_cast<void**>(stack.bottom + stack.bytes);  // 16-byte aligned: a page boundary
    *--top = nullptr, *--top = nullptr;  // where a debugger or unwinder that follows return addresses stops
    *--top = reinterpret_cast<void*>(&lrk_fiber_start);
    *--top = nullptr, *--top = nullptr;            // rbp, rbx
    *--top = argument;                             // r12
    *--top = reinterpret_cast<void*>(entry);       // r13
    *--top = nullptr, *--top = nullptr;            // r14, r15
    stack_pointer_ = top;
#endif
  }

  /// Suspends the running code into `from` and continues `to`.
  static void switch_to(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack_, to.stack_.bottom, to.stack_.bytes);
#endif
#if defined(LRK_FIBER_UCONTEXT)
    swapcontext(&from.context_, &to.context_);
#else
    lrk_fiber_switch(&from.stack_pointer_, to.stack_pointer_);
#endif
    from.arrived();
  }

  /// To be called first by an entry function (switch_to does it for a fiber that continues).
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    const void* previous_bottom = nullptr;
    size_t previous_bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack_, &previous_bottom, &previous_bytes);
    if (origin_ != nullptr) origin_->stack_ = {static_cast<char*>(const_cast<void*>(previous_bottom)), previous_bytes};
#endif
  }

  /// The scheduler's own context, whose stack the address sanitizer learns when a fiber first arrives from it.
  void set_origin(Fiber* origin) { origin_ = origin; }

 private:
  StackSpan stack_;
  Fiber* origin_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack_ = nullptr;
#endif
#if defined(LRK_FIBER_UCONTEXT)
  static void start(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<Fiber*>(uintptr_t(uint64_t(low) | uint64_t(high) << 32));
    self->entry_(self->argument_);
  }
  ucontext_t context_;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace lrk::emulator
