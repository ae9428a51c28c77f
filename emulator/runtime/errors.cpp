// Errors of a running kernel: named with kernel, block, thread and line, they end the launch and leave the process
// alive. Wild accesses and divisions by zero become such errors too.
#include <signal.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "worker.h"

namespace emu {

namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction previous[sizeof kSignals / sizeof *kSignals];

void restore(int signal) {
  for (size_t i = 0; i < sizeof kSignals / sizeof *kSignals; ++i) {
    if (kSignals[i] == signal) sigaction(signal, &previous[i], nullptr);
  }
}

const char* describe_fault(int signal, const char* address) {
  const Worker& w = *worker;
  if (signal == SIGFPE) return "integer division by zero";
  if (address >= w.stacks && address < w.stacks + kStackSize * kMaxThreads) return "stack overflow of a fiber";
  if (address >= w.arena - kPage && address < w.arena + kArena + kPage) return "shared memory access far out of bounds";
  return "illegal memory access";
}

// Must survive a second fault while it formats a message.
void on_signal(int signal, siginfo_t* info, void*) {
  static __thread bool busy;
  if (!self || !worker || busy) {
    restore(signal);
    return;
  }
  busy = true;
  auto* address = static_cast<const char*>(info->si_addr);
  const char* what = describe_fault(signal, address);
  char place[256];
  describe_place(place, sizeof place);
  Worker& w = *worker;
  if (signal == SIGFPE) {
    snprintf(w.message, sizeof w.message, "%s: %s", place, what);
  } else {
    w.code = kCodeIllegalAddress;
    snprintf(w.message, sizeof w.message, "%s: %s at address %p", place, what, static_cast<const void*>(address));
  }
  busy = false;
  leave_failed();
}

const char* waits_in(const Thread& thread) {
  switch (thread.state) {
    case ThreadState::at_barrier: return "barrier";
    case ThreadState::at_mbarrier: return "mbarrier wait";
    default: return op_name(thread.op);
  }
}

#ifdef EMU_ASAN
void on_report(const char*) {
  char place[256];
  describe_place(place, sizeof place);
  fprintf(stderr, "In %s\n", place);
}
#endif

}  // namespace

void describe_place(char* text, size_t size) {
  if (!self || !worker) {
    snprintf(text, size, "host");
    return;
  }
  const uint3& t = self->tid;
  snprintf(text, size, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u)", worker->kernel->name, blk.bid.x, blk.bid.y,
           blk.bid.z, t.x, t.y, t.z);
}

void leave_failed() {
  worker->failed = true;
  void* never_resumed;
  switch_to(&never_resumed, self, nullptr, true);
  abort();
}

namespace {

[[noreturn]] void fail_with(const char* text) {
  if (!worker || !self) {
    fprintf(stderr, "emulator: %s\n", text);
    abort();
  }
  char place[256];
  describe_place(place, sizeof place);
  snprintf(worker->message, sizeof worker->message, "%s: %s", place, text);
  leave_failed();
}

}  // namespace

void fatal(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  fail_with(text);
}

void fatal_at(Site site, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  char with_line[1280];
  snprintf(with_line, sizeof with_line, "%s (at %s:%d)", text, site.file, site.line);
  fail_with(with_line);
}

// The first thread of each run of threads that wait in one place.
void describe_deadlock() {
  constexpr unsigned kShown = 6;
  Worker& w = *worker;
  size_t used = static_cast<size_t>(snprintf(w.message, sizeof w.message, "deadlock in kernel %s, block (%u,%u,%u):",
                                             w.kernel->name, blk.bid.x, blk.bid.y, blk.bid.z));
  unsigned shown = 0;
  for (unsigned i = 0; i < w.thread_count && shown < kShown; ++i) {
    const Thread& thread = w.threads[i];
    if (thread.state == ThreadState::exited) continue;
    const Thread* before = i ? &w.threads[i - 1] : nullptr;
    if (before && before->state == thread.state && before->site.line == thread.site.line) continue;
    if (used >= sizeof w.message) break;
    used += static_cast<size_t>(snprintf(w.message + used, sizeof w.message - used, " [from thread %u: %s at %s:%d]", i,
                                         waits_in(thread), thread.site.file, thread.site.line));
    ++shown;
  }
}

void catch_faults() {
  if (!kCatchesFaults) return;
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (size_t i = 0; i < sizeof kSignals / sizeof *kSignals; ++i) sigaction(kSignals[i], &action, &previous[i]);
}

void stop_catching_faults() {
  if (!kCatchesFaults) return;
  for (int signal : kSignals) restore(signal);
}

void install_asan_callback() {
#ifdef EMU_ASAN
  __asan_set_error_report_callback(on_report);
#endif
}

}  // namespace emu
