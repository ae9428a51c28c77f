// A stand-in for libcuda: the part of the driver API that cudarc's safe layer needs, on top of the emulator.
// Built with soname libcuda.so; a test loads it by path first, after which cudarc's own dlopen finds it.
#include "runtime.h"
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>
#include <chrono>
#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#endif

using CUresult = int; using CUdeviceptr = unsigned long long;
enum { OK = 0, INVALID_VALUE = 1, OOM = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };
#define API extern "C" __attribute__((visibility("default"))) CUresult

namespace {
std::recursive_mutex mu;
std::string last_error;
struct Alloc { size_t size; char* map; size_t map_len; bool host; };
std::map<uintptr_t, Alloc> allocs;
size_t live_bytes = 0, peak_bytes = 0; uint64_t n_launches = 0;
struct Ev { bool recorded = false, done = true; struct Strm* s = nullptr; std::chrono::steady_clock::time_point t; };
struct Strm { std::deque<std::function<int()>> q; };
struct Func { const emu::Kernel* k; uint32_t max_dyn = 48 * 1024; };
struct Mod { std::string name; std::map<std::string, std::unique_ptr<Func>> fns; };
Strm null_stream; std::vector<Strm*> streams{&null_stream};
int pending_error = 0;
bool lazy() { static bool l = [] { const char* e = getenv("EMU_STREAM"); return e && !strcmp(e, "lazy"); }(); return l; }
bool hide() { static bool l = [] { const char* e = getenv("EMU_HIDE"); return e && !strcmp(e, "1"); }(); return l; }
int fail(int code, const char* fmt, const char* a = "") { char b[2400]; snprintf(b, sizeof b, fmt, a); last_error = b; if (getenv("EMU_VERBOSE")) fprintf(stderr, "emu: %s\n", b); return code; }

const Alloc* find(const void* p, size_t n, uintptr_t* base = nullptr) {
  uintptr_t a = (uintptr_t)p; auto it = allocs.upper_bound(a);
  if (it == allocs.begin()) return nullptr;
  --it; if (a < it->first || a + n > it->first + it->second.size) return nullptr;
  if (base) *base = it->first;
  return &it->second;
}
bool is_dev(const void* p) { std::lock_guard<std::recursive_mutex> g(mu); const Alloc* a = find(p, 1); return a && !a->host; }
// Device memory is out of the host's reach except while the "device" works.
struct Open {
  Open() { if (hide()) for (auto& a : allocs) if (!a.second.host && a.second.map) mprotect(a.second.map + 4096, a.second.map_len - 8192, PROT_READ | PROT_WRITE); }
  ~Open() { if (hide()) for (auto& a : allocs) if (!a.second.host && a.second.map) mprotect(a.second.map + 4096, a.second.map_len - 8192, PROT_NONE); }
};
int submit(Strm* s, std::function<int()> f) {
  if (!s) s = &null_stream;
  if (lazy()) { s->q.push_back(std::move(f)); return OK; }
  int r = f(); return r;
}
int flush(Strm* s) {
  while (!s->q.empty()) { auto f = std::move(s->q.front()); s->q.pop_front(); int r = f(); if (r && !pending_error) pending_error = r; }
  int r = pending_error; pending_error = 0; return r;
}
int flush_all() { int r = 0; for (size_t i = 0; i < streams.size(); ++i) { int x = flush(streams[i]); if (x) r = x; } return r; }
}  // namespace
#define LOCK std::lock_guard<std::recursive_mutex> g_(mu)

API cuInit(unsigned) {
  emu::pointer_check(is_dev);
  auto env = [](const char* n, int d) { const char* e = getenv(n); return e ? atoi(e) : d; };
  auto& o = emu::options();
  o.order = env("EMU_ORDER", 0); o.seed = (uint64_t)env("EMU_SEED", 1); o.workers = env("EMU_WORKERS", 0); o.strict = env("EMU_STRICT", 1);
  o.smem_limit = (uint32_t)env("EMU_SMEM", 227 * 1024);
  return OK;
}
API cuDriverGetVersion(int* v) { *v = 13000; return OK; }
API cuDeviceGetCount(int* n) { *n = 1; return OK; }
API cuDeviceGet(int* d, int i) { if (i) return INVALID_DEVICE; *d = 0; return OK; }
API cuDeviceGetName(char* n, int len, int) { snprintf(n, (size_t)len, "CPU emulator"); return OK; }
API cuDeviceTotalMem_v2(size_t* b, int) { *b = 8ull << 30; return OK; }
API cuDeviceGetAttribute(int* v, int a, int) {
  switch (a) {
    case 1: *v = 1024; break; case 2: case 3: *v = 1024; break; case 4: *v = 64; break;
    case 5: *v = 0x7fffffff; break; case 6: case 7: *v = 65535; break;
    case 8: *v = 48 * 1024; break; case 10: *v = 32; break; case 12: *v = 65536; break; case 16: *v = 4; break;
    case 39: *v = 2048; break; case 75: *v = 9; break; case 76: *v = 0; break;
    case 81: *v = 228 * 1024; break; case 97: *v = (int)emu::options().smem_limit; break;
    case 115: *v = 0; break;                         // no memory pools
    default: *v = 0;
  }
  return OK;
}
static int the_ctx;
API cuDevicePrimaryCtxRetain(void** c, int) { *c = &the_ctx; return OK; }
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxSetCurrent(void*) { return OK; }
API cuCtxGetCurrent(void** c) { *c = &the_ctx; return OK; }
API cuCtxSynchronize() { LOCK; return flush_all(); }
API cuGetErrorName(int e, const char** s) { *s = e == 0 ? "CUDA_SUCCESS" : e == 1 ? "CUDA_ERROR_INVALID_VALUE" : e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : e == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : e == 500 ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR"; return OK; }
API cuGetErrorString(int e, const char** s) { static thread_local std::string m; LOCK; m = (e ? last_error : std::string("no error")); *s = m.c_str(); return OK; }
extern "C" __attribute__((visibility("default"))) const char* emu_last_error() { return last_error.c_str(); }
extern "C" __attribute__((visibility("default"))) void emu_stats(uint64_t* launches, uint64_t* live, uint64_t* peak) { *launches = n_launches; *live = live_bytes; *peak = peak_bytes; }

static int do_alloc(CUdeviceptr* p, size_t n, bool host) {
  if (!n) return fail(INVALID_VALUE, "allocation of zero bytes");
  Alloc a{n, nullptr, 0, host}; char* u;
#ifdef HAS_ASAN
  if (posix_memalign((void**)&u, 256, n)) return OOM;             // exact redzones from the sanitizer
#else
  size_t body = (n + 255) & ~(size_t)255, pages = (body + 4095) & ~(size_t)4095;
  a.map_len = pages + 8192;
  a.map = (char*)mmap(nullptr, a.map_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (a.map == MAP_FAILED) return OOM;
  mprotect(a.map + 4096, pages, PROT_READ | PROT_WRITE);
  u = a.map + 4096 + pages - body;                                // the end touches the guard page
  memset(a.map + 4096, 0xA5, pages);
#endif
  memset(u, 0xff, n);                                             // not zero: device memory is not
#ifndef HAS_ASAN
  if (hide() && !host) mprotect(a.map + 4096, pages, PROT_NONE);
#endif
  allocs[(uintptr_t)u] = a; *p = (CUdeviceptr)u; live_bytes += n; if (live_bytes > peak_bytes) peak_bytes = live_bytes;
  return OK;
}
static int do_free(CUdeviceptr p) {
  auto it = allocs.find((uintptr_t)p); if (it == allocs.end()) return fail(INVALID_VALUE, "free of a pointer that is not a live allocation");
  Alloc a = it->second; int r = OK;
#ifdef HAS_ASAN
  free((void*)p);
#else
  if (a.map) { mprotect(a.map + 4096, a.map_len - 8192, PROT_READ);
    for (const unsigned char* q = (unsigned char*)p + a.size; q < (unsigned char*)a.map + a.map_len - 4096; ++q) if (*q != 0xA5) { r = fail(ILLEGAL_ADDRESS, "write past the end of a device allocation (found when freed)"); break; }
    munmap(a.map, a.map_len); }
#endif
  live_bytes -= a.size; allocs.erase(it); return r;
}
API cuMemAlloc_v2(CUdeviceptr* p, size_t n) { LOCK; return do_alloc(p, n, false); }
API cuMemFree_v2(CUdeviceptr p) { LOCK; if (!p) return OK; flush_all(); return do_free(p); }
API cuMemAllocAsync(CUdeviceptr* p, size_t n, void*) { LOCK; return do_alloc(p, n, false); }
API cuMemFreeAsync(CUdeviceptr p, void* s) { LOCK; return submit((Strm*)s, [p] { return do_free(p); }); }
API cuMemHostAlloc(void** p, size_t n, unsigned) { LOCK; CUdeviceptr d; int r = do_alloc(&d, n, true); *p = (void*)d; return r; }
API cuMemFreeHost(void* p) { LOCK; flush_all(); return do_free((CUdeviceptr)p); }
API cuMemGetInfo_v2(size_t* f, size_t* t) { *t = 8ull << 30; *f = *t - live_bytes; return OK; }

static int chk(CUdeviceptr p, size_t n) { const Alloc* a = find((void*)p, n); return a && !a->host ? OK : fail(INVALID_VALUE, "copy or fill outside a live device allocation"); }
API cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, void* s) { LOCK; if (int r = chk(p, n)) return r; return submit((Strm*)s, [=] { Open o; memset((void*)p, v, n); return OK; }); }
API cuMemsetD8_v2(CUdeviceptr p, unsigned char v, size_t n) { return cuMemsetD8Async(p, v, n, nullptr); }
API cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void* h, size_t n, void* s) {
  LOCK; if (int r = chk(d, n)) return r;
  if (find(h, n)) return submit((Strm*)s, [=] { Open o; memcpy((void*)d, h, n); return OK; });   // pinned: read when it happens
  auto st = std::make_shared<std::vector<char>>((const char*)h, (const char*)h + n);             // pageable: staged now
  return submit((Strm*)s, [=] { Open o; memcpy((void*)d, st->data(), n); return OK; });
}
API cuMemcpyDtoHAsync_v2(void* h, CUdeviceptr d, size_t n, void* s) {
  LOCK; if (int r = chk(d, n)) return r;
  int r = submit((Strm*)s, [=] { Open o; memcpy(h, (void*)d, n); return OK; });
  if (lazy() && !find(h, n)) return flush(s ? (Strm*)s : &null_stream);                          // pageable: complete on return
  return r;
}
API cuMemcpyDtoDAsync_v2(CUdeviceptr d, CUdeviceptr h, size_t n, void* s) { LOCK; if (int r = chk(d, n)) return r; if (int r = chk(h, n)) return r; return submit((Strm*)s, [=] { Open o; memmove((void*)d, (void*)h, n); return OK; }); }
API cuMemcpyHtoD_v2(CUdeviceptr d, const void* h, size_t n) { LOCK; flush_all(); return cuMemcpyHtoDAsync_v2(d, h, n, nullptr); }
API cuMemcpyDtoH_v2(void* h, CUdeviceptr d, size_t n) { LOCK; if (int r = flush_all()) return r; if (int r = chk(d, n)) return r; Open o; memcpy(h, (void*)d, n); return OK; }
API cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr h, size_t n) { LOCK; flush_all(); return cuMemcpyDtoDAsync_v2(d, h, n, nullptr); }

API cuStreamCreate(void** s, unsigned) { LOCK; auto* x = new Strm; streams.push_back(x); *s = x; return OK; }
API cuStreamCreateWithPriority(void** s, unsigned f, int) { return cuStreamCreate(s, f); }
API cuStreamDestroy_v2(void* s) { LOCK; int r = flush((Strm*)s); for (size_t i = 0; i < streams.size(); ++i) if (streams[i] == s) { streams.erase(streams.begin() + (long)i); break; } delete (Strm*)s; return r; }
API cuStreamSynchronize(void* s) { LOCK; return flush(s ? (Strm*)s : &null_stream); }
API cuStreamIsCapturing(void*, int* c) { *c = 0; return OK; }
API cuEventCreate(void** e, unsigned) { *e = new Ev; return OK; }
API cuEventDestroy_v2(void* e) { LOCK; flush_all(); delete (Ev*)e; return OK; }
API cuEventRecord(void* e, void* s) { LOCK; Ev* x = (Ev*)e; x->recorded = true; x->done = false; x->s = s ? (Strm*)s : &null_stream; return submit(x->s, [x] { x->done = true; x->t = std::chrono::steady_clock::now(); return OK; }); }
static int settle(Ev* x) { while (!x->done && x->s && !x->s->q.empty()) { auto f = std::move(x->s->q.front()); x->s->q.pop_front(); int r = f(); if (r && !pending_error) pending_error = r; } return OK; }
API cuEventSynchronize(void* e) { LOCK; settle((Ev*)e); int r = pending_error; pending_error = 0; return r; }
API cuEventQuery(void* e) { LOCK; return ((Ev*)e)->done ? OK : (settle((Ev*)e), NOT_READY); }
API cuEventElapsedTime(float* ms, void* a, void* b) { *ms = std::chrono::duration<float, std::milli>(((Ev*)b)->t - ((Ev*)a)->t).count(); return OK; }
API cuEventElapsedTime_v2(float* ms, void* a, void* b) { return cuEventElapsedTime(ms, a, b); }
API cuStreamWaitEvent(void* s, void* e, unsigned) { LOCK; Ev* x = (Ev*)e; return submit((Strm*)s, [x] { return settle(x); }); }

// A module image is the text "EMU-MODULE <name>"; its kernels are compiled into this library.
API cuModuleLoadData(void** m, const void* img) {
  LOCK; if (strncmp((const char*)img, "EMU-MODULE ", 11)) return fail(INVALID_IMAGE, "not an emulator image (a cubin or PTX reached the CPU emulator)");
  auto* x = new Mod; x->name = (const char*)img + 11; *m = x; return OK;
}
API cuModuleUnload(void* m) { LOCK; flush_all(); delete (Mod*)m; return OK; }
API cuModuleGetFunction(void** f, void* m, const char* n) {
  LOCK; const emu::Kernel* k = emu::find_kernel(n); if (!k) return fail(NOT_FOUND, "no kernel named %s", n);
  auto& p = ((Mod*)m)->fns[n]; if (!p) { p.reset(new Func); p->k = k; } *f = p.get(); return OK;
}
API cuFuncSetAttribute(void* f, int a, int v) { if (a == 8) { if (v < 0 || (uint32_t)v > emu::options().smem_limit) return fail(INVALID_VALUE, "max dynamic shared memory beyond the device limit"); ((Func*)f)->max_dyn = (uint32_t)v; } return OK; }
API cuFuncGetAttribute(int* v, int a, void* f) { *v = a == 0 ? (((Func*)f)->k->max_threads ? ((Func*)f)->k->max_threads : 1024) : a == 8 ? (int)((Func*)f)->max_dyn : 0; return OK; }
API cuFuncGetParamInfo(void* f, size_t i, size_t* off, size_t* size) {
  const emu::Kernel* k = ((Func*)f)->k; if (i >= (size_t)k->nparams) return INVALID_VALUE;
  size_t o = 0; for (size_t j = 0;; ++j) { size_t s = k->params[j].size, a = s >= 8 ? 8 : s ? s : 1; o = (o + a - 1) / a * a; if (j == i) { if (off) *off = o; if (size) *size = s; return OK; } o += s; }
}
API cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem, void* s, void** params, void** extra) {
  LOCK; Func* fn = (Func*)f; const emu::Kernel* k = fn->k;
  if (extra) return fail(NOT_SUPPORTED, "extra launch options");
  if (smem > fn->max_dyn) return fail(INVALID_VALUE, "dynamic shared memory of %s above its MAX_DYNAMIC_SHARED_SIZE_BYTES attribute", k->name);
  struct Args { std::vector<std::vector<char>> v; std::vector<void*> p; }; auto a = std::make_shared<Args>();
  for (int i = 0; i < k->nparams; ++i) { a->v.emplace_back((char*)params[i], (char*)params[i] + k->params[i].size); }   // copied now, as the driver does
  for (auto& x : a->v) a->p.push_back(x.data());
  ++n_launches;
  // argument and geometry errors surface at the call, faults of the kernel at the next synchronisation (lazy) or here
  return submit((Strm*)s, [=] { Open o; emu::LaunchResult r; int c = emu::launch(k, dim3(gx, gy, gz), dim3(bx, by, bz), smem, a->p.data(), &r); if (c) fail(c, "%s", r.msg); return c; });
}
