// Switching between stacks: on x86-64 a few instructions, elsewhere ucontext, which costs a system call per switch.
#include "fiber.h"

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emu {

#ifdef __x86_64__

// Callee-saved registers stay on the stack that is left.
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
.p2align 4
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
)");

void* make_context(char* top, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  auto** slot = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
  *--slot = nullptr;  // keeps the stack aligned as a call leaves it, and ends backtraces
  *--slot = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--slot = nullptr;
  return slot;
}

#else

extern "C" void emu_switch(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}

void* make_context(char* top, void (*entry)()) {
  constexpr size_t kStackRoom = 60 * 1024;
  uintptr_t place = (reinterpret_cast<uintptr_t>(top) - sizeof(ucontext_t)) & ~uintptr_t{63};
  auto* context = reinterpret_cast<ucontext_t*>(place);
  getcontext(context);
  context->uc_stack.ss_sp = reinterpret_cast<char*>(context) - kStackRoom;
  context->uc_stack.ss_size = kStackRoom;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

#endif

}  // namespace emu
