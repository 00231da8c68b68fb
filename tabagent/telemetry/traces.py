"""Requests as spans, for a collector of OpenTelemetry; needs `tabagent[otel]` and is off without one.

A span is made when its request has ended, of what was noted for everybody else: who traces costs a
token nothing, and who does not costs a request nothing. Names follow the semantic conventions of
HTTP (1.44) and of generative AI (semantic-conventions-genai 0.1, in development).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Final

import structlog

from tabagent import __version__
from tabagent.exchange import OK, Exchange, Inference
from tabagent.telemetry.requests import PROBES

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor

log = structlog.get_logger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_S: Final = 2.0  # that the last spans get when the server stops
OPERATIONS: Final = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
"""Of generative AI, by the task of a model; other tasks have no name there, and keep their own."""
PROVIDER: Final = "tabagent"
INHERITED: Final = (b"traceparent", b"tracestate")


def wanted(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a setting, or OpenTelemetry's own variables, name a collector."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    return bool(endpoint) or any(environment.get(name) for name in ENDPOINTS)


def traces(endpoint: str | None) -> Traces | None:
    """Spans go to this collector, or to the one that the environment names; None where there is
    none to send to, or nothing to send with.
    """
    if not wanted(endpoint):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("traces_off", why="OpenTelemetry is missing", fix="pip install tabagent[otel]")
        return None
    address = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
    return Traces(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))


class Traces:
    """Hands a span of each request, and of each use of a model in it, to `processor`."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        about = {"service.name": "tabagent", "service.version": __version__}
        if name := os.environ.get("OTEL_SERVICE_NAME"):
            about["service.name"] = name
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tabagent", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, one: Exchange, seconds: float) -> None:
        """One request that has ended. `traceparent` in its headers says what it is a part of."""
        if one.operation in PROBES:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        now_ns, now = time_ns(), monotonic()

        def moment(then: float) -> int:
            return now_ns - int((now - then) * 1e9)

        span = self._tracer.start_span(
            one.route if one.route and one.transport == "http" else one.operation,
            context=self._parent(one),
            kind=SpanKind.SERVER,
            attributes=_of_request(one),
            start_time=moment(one.began),
        )
        if one.status >= 500 or (not one.status and one.outcome != OK):
            span.set_status(Status(StatusCode.ERROR, one.outcome))
        within = set_span_in_context(span)
        for each in one.inferences:
            operation = OPERATIONS.get(each.kind, each.kind)
            child = self._tracer.start_span(
                f"{operation} {each.model}",
                context=within,
                kind=SpanKind.CLIENT,  # a model runs in a process of its own
                attributes=_of_inference(each, operation),
                start_time=moment(each.began),
            )
            if each.outcome != OK:
                child.set_status(Status(StatusCode.ERROR, each.outcome))
            child.end(moment(each.ended))
        span.end(moment(one.began + seconds))

    def _parent(self, one: Exchange) -> Context:
        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in one.headers
            if name in INHERITED
        }
        from opentelemetry.context import Context

        return self._propagator.extract(carrier, context=Context())

    async def stop(self) -> None:
        """Send what is left, as far as that is quick."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def close() -> None:
            self._provider.force_flush(int(FLUSH_S * 1000))
            self._provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        # No thread of a pool: a collector that does not answer would hold up the end.
        threading.Thread(target=close, daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_S):
                await done.wait()
        except TimeoutError:
            log.warning("traces_lost", why="the collector does not answer")


def _of_request(one: Exchange) -> dict[str, Any]:
    method, _, path = one.route.partition(" ")
    found: dict[str, Any] = {
        "tabagent.operation": one.operation,
        "tabagent.transport": one.transport,
        "tabagent.request_id": one.request_id,
        "tabagent.caller": one.caller or "nobody",
    }
    if one.transport == "http":
        found["http.response.status_code"] = one.status
        if path:
            found |= {"http.request.method": method, "http.route": path}
    if one.outcome != OK:
        found["error.type"] = one.outcome
    return found


def _of_inference(one: Inference, operation: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": one.model,
        "gen_ai.response.model": one.model,
        "gen_ai.usage.input_tokens": one.prompt_tokens,
        "gen_ai.usage.output_tokens": one.completion_tokens,
    }
    if one.cached_tokens:
        found["gen_ai.usage.cache_read.input_tokens"] = one.cached_tokens
    if one.reasoning_tokens:
        found["gen_ai.usage.reasoning.output_tokens"] = one.reasoning_tokens
    if one.first:
        found["gen_ai.response.time_to_first_chunk"] = one.first - one.began
    if one.outcome != OK:
        found["error.type"] = one.outcome
    return found
