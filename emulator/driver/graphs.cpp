// Capture of a stream into a graph, and the replay of graphs. A node keeps the arguments it was captured with. Calls that
// the real driver does not allow during a capture fail here too and spoil the capture.
#include <algorithm>

#include "driver.h"

using namespace driver;

namespace driver {

namespace {

// Whether the capture forbids this thread calls that are unsafe in some captures.
bool forbids(const Capture& capture) {
  switch (capture.mode) {
    case CaptureMode::global: return true;
    case CaptureMode::thread_local_: return capture.owner == std::this_thread::get_id();
    case CaptureMode::relaxed: return false;
  }
  return false;
}

// Every stream leaves the capture.
void dissolve(const std::shared_ptr<Capture>& capture) {
  for (Stream* stream : capture->streams) {
    stream->capture.reset();
    stream->captured = stream->joined = 0;
  }
  auto& all = state().captures;
  all.erase(std::remove(all.begin(), all.end(), capture), all.end());
}

bool has_unjoined_work(const Capture& capture) {
  return std::any_of(capture.streams.begin(), capture.streams.end(), [&](const Stream* stream) {
    return stream != capture.origin && stream->joined < stream->captured;
  });
}

}  // namespace

void leave_capture(Stream* stream) {
  std::shared_ptr<Capture> capture = std::move(stream->capture);
  capture->invalidated = true;
  auto& streams = capture->streams;
  streams.erase(std::remove(streams.begin(), streams.end(), stream), streams.end());
  if (capture->origin == stream) dissolve(capture);
}

int refuse_in_capture(const char* what) {
  bool refused = false;
  for (const auto& capture : state().captures) {
    if (!forbids(*capture)) continue;
    capture->invalidated = true;
    refused = true;
  }
  return refused ? fail(kCaptureUnsupported, "%s while a stream is capturing", what) : kSuccess;
}

int refuse_if_capturing(Stream* stream, const char* what) {
  if (stream->is_default) {
    if (int code = refuse_implicit(stream->context)) return code;
  }
  if (!stream->capture) return kSuccess;
  stream->capture->invalidated = true;
  return fail(kCaptureUnsupported, "%s of a capturing stream", what);
}

int refuse_if_any_captures(const Context* context, const char* what) {
  bool refused = false;
  for (const auto& capture : state().captures) {
    if (capture->origin->context != context) continue;
    capture->invalidated = true;
    refused = true;
  }
  return refused ? fail(kCaptureUnsupported, "%s while a stream of the context is capturing", what) : kSuccess;
}

int refuse_implicit(Context* context) {
  bool refused = false;
  for (const auto& capture : state().captures) {
    for (const Stream* stream : capture->streams) {
      if (stream->context != context || stream->non_blocking) continue;
      capture->invalidated = true;
      refused = true;
    }
  }
  return refused ? fail(kCaptureImplicit, "work on the default stream while a blocking stream is capturing") : kSuccess;
}

}  // namespace driver

DRIVER_API CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (stream->is_default) return fail(kCaptureUnsupported, "the default stream cannot capture");
  if (stream->capture) return fail(kIllegalState, "the stream is capturing already");
  if (mode < 0 || mode > 2) return fail(kInvalidValue, "capture mode %d", mode);
  auto capture = std::make_shared<Capture>();
  capture->origin = stream;
  capture->mode = static_cast<CaptureMode>(mode);
  capture->owner = std::this_thread::get_id();
  capture->streams.push_back(stream);
  stream->capture = capture;
  stream->captured = stream->joined = 0;
  state().captures.push_back(capture);
  return kSuccess;
}

DRIVER_API CUresult cuStreamEndCapture(void* handle, void** graph) {
  DRIVER_ENTER(Needs::context);
  *graph = nullptr;
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  std::shared_ptr<Capture> capture = stream->capture;
  if (!capture) return fail(kIllegalState, "the stream is not capturing");
  if (capture->mode != CaptureMode::relaxed && capture->owner != std::this_thread::get_id()) {
    return fail(kCaptureWrongThread, "the capture was begun by another thread");
  }
  if (capture->origin != stream) {
    capture->invalidated = true;
    return fail(kCaptureUnmatched, "the capture was begun in another stream");
  }
  bool unjoined = has_unjoined_work(*capture);
  dissolve(capture);
  if (capture->invalidated) return fail(kCaptureInvalidated, "a call during the capture was not allowed");
  if (unjoined) return fail(kCaptureUnjoined, "another stream of the capture has work that the first does not wait for");
  Graph* made = state().graphs.add(current());
  made->nodes = std::move(capture->nodes);
  *graph = made;
  return kSuccess;
}

DRIVER_API CUresult cuStreamIsCapturing(void* handle, int* status) {
  DRIVER_ENTER(Needs::context);
  enum { kNone = 0, kActive = 1, kInvalidated = 2 };
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (stream->is_default) {
    if (int code = refuse_implicit(stream->context)) return code;
  }
  *status = !stream->capture ? kNone : stream->capture->invalidated ? kInvalidated : kActive;
  return kSuccess;
}

DRIVER_API CUresult cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
  DRIVER_ENTER(Needs::context);
  Graph* graph = state().graphs.find(handle);
  if (!graph) return fail(kInvalidValue, "%p is not a live graph", handle);
  size_t room = nodes ? std::min(*count, graph->nodes.size()) : 0;
  for (size_t i = 0; i < room; ++i) nodes[i] = &graph->nodes[i];
  *count = graph->nodes.size();
  return kSuccess;
}

DRIVER_API CUresult cuGraphInstantiateWithFlags(void** exec, void* handle, unsigned long long flags) {
  DRIVER_ENTER(Needs::context);
  constexpr unsigned long long kAutoFree = 1, kUpload = 2, kDeviceLaunch = 4, kNodePriority = 8;
  constexpr unsigned long long kKnown = kAutoFree | kUpload | kDeviceLaunch | kNodePriority;
  Graph* graph = state().graphs.find(handle);
  if (!graph) return fail(kInvalidValue, "%p is not a live graph", handle);
  if (flags & ~kKnown || (flags & kAutoFree && flags & kDeviceLaunch)) {
    return fail(kInvalidValue, "graph instantiation flags %llu", flags);
  }
  if (flags & kDeviceLaunch) return fail(kNotSupported, "graphs launched from the device");
  GraphExec* made = state().graph_execs.add(current());
  made->nodes = std::make_shared<const std::vector<Node>>(graph->nodes);
  *exec = made;
  return kSuccess;
}

DRIVER_API CUresult cuGraphLaunch(void* handle, void* stream_handle) {
  DRIVER_ENTER(Needs::context);
  GraphExec* exec = state().graph_execs.find(handle);
  if (!exec) return fail(kInvalidValue, "%p is not a live executable graph", handle);
  Stream* stream = stream_of(stream_handle);
  if (!stream) return kInvalidHandle;
  if (!stream->capture) ++state().counters.graph_launches;
  return submit(stream, "graph", [context = stream->context, nodes = exec->nodes] {
    for (const Node& node : *nodes) {
      if (!context->error) node.run();
    }
  });
}

DRIVER_API CUresult cuGraphUpload(void* handle, void* stream_handle) {
  DRIVER_ENTER(Needs::context);
  if (!state().graph_execs.find(handle)) return fail(kInvalidValue, "%p is not a live executable graph", handle);
  return stream_of(stream_handle) ? kSuccess : kInvalidHandle;
}

DRIVER_API CUresult cuGraphExecDestroy(void* handle) {
  DRIVER_ENTER(Needs::context);
  GraphExec* exec = state().graph_execs.find(handle);
  if (!exec) return fail(kInvalidValue, "%p is not a live executable graph", handle);
  state().graph_execs.remove(exec);
  return kSuccess;
}

DRIVER_API CUresult cuGraphDestroy(void* handle) {
  DRIVER_ENTER(Needs::context);
  Graph* graph = state().graphs.find(handle);
  if (!graph) return fail(kInvalidValue, "%p is not a live graph", handle);
  state().graphs.remove(graph);
  return kSuccess;
}
