// Streams and events. Eager: work runs when it is submitted. Lazy: it runs when something waits for it, in the order of
// its stream only, so that a missing wait between streams or before a read on the host shows as stale data.
#include "driver.h"

using namespace driver;

namespace driver {

namespace {

void* const kLegacyStream = reinterpret_cast<void*>(1);

void run_next(Stream* stream) {
  Operation run = std::move(stream->pending.front());
  stream->pending.pop_front();
  if (!stream->context->error) run();
}

// The default stream waits for blocking streams and they for it.
void order_with_default(Stream* stream) {
  Stream* base = stream->context->default_stream.get();
  if (stream == base) {
    state().streams.each([&](Stream& other) {
      if (other.context == stream->context && !other.non_blocking) finish(&other);
    });
  } else if (!stream->non_blocking) {
    finish(base);
  }
}

// Runs the record's stream up to the record.
void reach(const std::shared_ptr<Record>& record) {
  while (!record->done && !record->stream->pending.empty()) run_next(record->stream);
}

int refuse_captured_event(const Record& record) {
  if (!record.capture) return kSuccess;
  record.capture->invalidated = true;
  return fail(kCapturedEvent, "the event was last recorded in a capturing stream");
}

// A wait inside a capture: an edge of the graph, and the way a second stream joins the capture.
int wait_in_capture(Stream* stream, const Record& record) {
  if (!record.capture) {
    stream->capture->invalidated = true;
    return fail(kCaptureIsolation, "a capturing stream cannot wait for an event recorded outside the capture");
  }
  if (record.capture->invalidated) return fail(kCaptureInvalidated, "wait in a capture that has failed");
  if (!stream->capture) {
    stream->capture = record.capture;
    stream->captured = stream->joined = 0;
    record.capture->streams.push_back(stream);
  }
  if (stream->capture != record.capture) {
    stream->capture->invalidated = record.capture->invalidated = true;
    return fail(kCaptureIsolation, "a wait would merge two captures");
  }
  if (record.stream != stream && record.stream->joined < record.captured) record.stream->joined = record.captured;
  ++stream->captured;
  return kSuccess;
}

Event* event_of(void* handle) {
  Event* event = state().events.find(handle);
  if (!event) fail(kInvalidHandle, "%p is not a live event", handle);
  return event;
}

}  // namespace

Stream* stream_of(void* handle) {
  if (!handle || handle == kLegacyStream) return current()->default_stream.get();
  Stream* stream = state().streams.find(handle);
  if (stream && stream->context == current()) return stream;
  fail(kInvalidHandle, "%p is not a live stream of the current context", handle);
  return nullptr;
}

int submit(Stream* stream, const char* kind, Operation run) {
  if (Capture* capture = stream->capture.get()) {
    if (capture->invalidated) return fail(kCaptureInvalidated, "%s in a capture that has failed", kind);
    capture->nodes.push_back({kind, std::move(run)});
    ++stream->captured;
    return kSuccess;
  }
  if (stream->is_default) {
    if (int code = refuse_implicit(stream->context)) return code;
  }
  order_with_default(stream);
  stream->pending.push_back(std::move(run));
  if (!emu::options().lazy_streams) finish(stream);
  return kSuccess;
}

int finish(Stream* stream) {
  while (!stream->pending.empty()) run_next(stream);
  return stream->context->error;
}

int finish_all(Context* context) {
  if (context->default_stream) finish(context->default_stream.get());
  state().streams.each([&](Stream& stream) {
    if (stream.context == context) finish(&stream);
  });
  return context->error;
}

}  // namespace driver

DRIVER_API CUresult cuStreamCreate(void** handle, unsigned flags) {
  DRIVER_ENTER(Needs::context);
  if (flags > 1) return fail(kInvalidValue, "cuStreamCreate flags %u", flags);
  Stream* stream = state().streams.add(current());
  stream->non_blocking = flags == 1;
  *handle = stream;
  return kSuccess;
}

DRIVER_API CUresult cuStreamCreateWithPriority(void** handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }

DRIVER_API CUresult cuStreamDestroy_v2(void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream || stream->is_default) return fail(kInvalidHandle, "destruction of %p, which is no created stream", handle);
  if (stream->capture) leave_capture(stream);
  int code = finish(stream);
  state().streams.remove(stream);
  return code;
}

DRIVER_API CUresult cuStreamSynchronize(void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (int code = refuse_if_capturing(stream, "cuStreamSynchronize")) return code;
  if (int code = refuse_in_capture("cuStreamSynchronize")) return code;
  ++state().counters.synchronizations;
  order_with_default(stream);
  return finish(stream);
}

DRIVER_API CUresult cuStreamQuery(void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (int code = refuse_if_capturing(stream, "cuStreamQuery")) return code;
  if (int code = refuse_in_capture("cuStreamQuery")) return code;
  if (stream->pending.empty()) return kSuccess;
  run_next(stream);  // so that polling ends
  return kNotReady;
}

DRIVER_API CUresult cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  Event* event = event_of(event_handle);
  if (!stream || !event) return kInvalidHandle;
  std::shared_ptr<Record> record = event->last;
  if (!record) return kSuccess;
  if (stream->capture || record->capture) return wait_in_capture(stream, *record);
  return submit(stream, "wait", [record] { reach(record); });
}

DRIVER_API CUresult cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  return submit(stream, "host", [=] { function(data); });
}

DRIVER_API CUresult cuEventCreate(void** handle, unsigned flags) {
  DRIVER_ENTER(Needs::context);
  constexpr unsigned kDisableTiming = 2;
  Event* event = state().events.add(current());
  event->timed = !(flags & kDisableTiming);
  *handle = event;
  return kSuccess;
}

DRIVER_API CUresult cuEventDestroy_v2(void* handle) {
  DRIVER_ENTER(Needs::context);
  Event* event = event_of(handle);
  if (!event) return kInvalidHandle;
  state().events.remove(event);
  return kSuccess;
}

DRIVER_API CUresult cuEventRecord(void* handle, void* stream_handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(stream_handle);
  Event* event = event_of(handle);
  if (!stream || !event) return kInvalidHandle;
  auto record = std::make_shared<Record>();
  record->stream = stream;
  record->capture = stream->capture;
  record->captured = stream->captured;
  event->last = record;
  if (record->capture) return kSuccess;
  return submit(stream, "event", [record] {
    record->done = true;
    record->time = std::chrono::steady_clock::now();
  });
}

DRIVER_API CUresult cuEventSynchronize(void* handle) {
  DRIVER_ENTER(Needs::context);
  Event* event = event_of(handle);
  if (!event) return kInvalidHandle;
  if (!event->last) return kSuccess;
  if (int code = refuse_captured_event(*event->last)) return code;
  if (int code = refuse_in_capture("cuEventSynchronize")) return code;
  ++state().counters.synchronizations;
  reach(event->last);
  return event->context->error;
}

DRIVER_API CUresult cuEventQuery(void* handle) {
  DRIVER_ENTER(Needs::context);
  Event* event = event_of(handle);
  if (!event) return kInvalidHandle;
  if (!event->last) return kSuccess;
  if (int code = refuse_captured_event(*event->last)) return code;
  if (int code = refuse_in_capture("cuEventQuery")) return code;
  if (event->last->done) return kSuccess;
  reach(event->last);  // so that polling ends
  return kNotReady;
}

DRIVER_API CUresult cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  DRIVER_ENTER(Needs::context);
  Event* first = event_of(start);
  Event* second = event_of(end);
  if (!first || !second) return kInvalidHandle;
  if (!first->last || !second->last || !first->timed || !second->timed) {
    return fail(kInvalidHandle, "elapsed time of events that were not recorded with timing");
  }
  if (!first->last->done || !second->last->done) return kNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(second->last->time - first->last->time).count();
  return kSuccess;
}

DRIVER_API CUresult cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
  return cuEventElapsedTime(milliseconds, start, end);
}
