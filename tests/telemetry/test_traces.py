"""Spans of requests, as a collector gets them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tabagent.config import Settings
from tabagent.telemetry import traces
from tabagent.telemetry.traces import Traces, wanted
from tests.bridge import NativeClient, approve
from tests.live import EMBEDDER, FAKE, LiveServer, chat_body, eventually, fake_models
from tests.telemetry.served import Served

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def live(tmp_path: Path, exporter: InMemorySpanExporter) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        server.gateway.dispatcher.requests.trace = Traces(SimpleSpanProcessor(exporter))
        yield server


def spans(exporter: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """The outer one of a request comes last, a moment after its answer."""
    eventually(lambda: len(exporter.get_finished_spans()) >= count)
    found = list(exporter.get_finished_spans())
    assert len(found) == count, [span.name for span in found]
    exporter.clear()
    return found


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_chat_is_a_request_and_what_the_model_did(
    live: LiveServer, exporter: InMemorySpanExporter
) -> None:
    response = live.chat("5 sleep")
    usage = response.json()["usage"]
    model, request = spans(exporter, 2)
    assert (request.name, request.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert attributes(request) == {
        "tabagent.operation": "chat",
        "tabagent.transport": "http",
        "tabagent.request_id": response.headers["x-request-id"],
        "tabagent.caller": "local",
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    assert (model.name, model.kind) == (f"chat {FAKE}", SpanKind.CLIENT)
    found = attributes(model)
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tabagent",
        "gen_ai.request.model": FAKE,
        "gen_ai.response.model": FAKE,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
    }
    assert model.parent and model.parent.span_id == request.context.span_id
    assert request.parent is None
    assert request.resource.attributes["service.name"] == "tabagent"
    times = (request.start_time, model.start_time, model.end_time, request.end_time)
    assert all(times) and list(times) == sorted(times)  # type: ignore[type-var]  # none is None
    assert 0.2e9 < (model.end_time or 0) - (model.start_time or 0) < 5e9


def test_other_tasks_have_the_names_that_there_are(
    live: LiveServer, exporter: InMemorySpanExporter
) -> None:
    live.client.post("/v1/embeddings", json={"model": EMBEDDER, "input": "abc"})
    model, _ = spans(exporter, 2)
    assert model.name == f"embeddings {EMBEDDER}"
    assert attributes(model)["gen_ai.usage.output_tokens"] == 0
    live.client.post("/v1/completions", json={"model": FAKE, "prompt": "2"})
    model, _ = spans(exporter, 2)
    assert attributes(model)["gen_ai.operation.name"] == "text_completion"


def test_a_request_is_a_part_of_what_its_headers_say(
    live: LiveServer, exporter: InMemorySpanExporter
) -> None:
    body = chat_body("2")
    live.client.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})
    model, request = spans(exporter, 2)
    assert request.parent and f"{request.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert f"{model.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    live.client.post("/v1/chat/completions", json=body, headers={"traceparent": "nonsense"})
    _, request = spans(exporter, 2)
    assert request.parent is None


def test_failures_have_their_problem_as_type(
    live: LiveServer, exporter: InMemorySpanExporter
) -> None:
    live.chat("1", "no/such")
    [request] = spans(exporter, 1)
    assert attributes(request)["error.type"] == "model-not-found"
    assert request.status.status_code is StatusCode.UNSET  # the client's own fault
    live.chat("9 crash")
    model, request = spans(exporter, 2)
    assert attributes(model)["error.type"] == attributes(request)["error.type"] == "worker-crashed"
    assert model.status.status_code is request.status.status_code is StatusCode.ERROR


def test_messages_are_traced_and_probes_are_not(
    live: LiveServer, exporter: InMemorySpanExporter
) -> None:
    approve(live)
    spans(exporter, 1)
    live.client.get("/health")
    live.client.get("/health/ready")
    live.client.get("/metrics")
    with NativeClient(live) as extension:
        extension.reply("chat", chat_body("2"))
        _, request = spans(exporter, 2)
    assert request.name == "chat"
    assert attributes(request)["tabagent.transport"] == "native"


def test_it_is_off_unless_a_collector_is_named() -> None:
    assert not wanted(None, {})
    assert wanted("http://127.0.0.1:4318", {})
    assert wanted(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    assert not wanted("http://x", {"OTEL_SDK_DISABLED": "true"})
    assert not wanted("http://x", {"OTEL_TRACES_EXPORTER": "none"})
    assert traces.traces(None) is None
    assert Settings().otlp_endpoint is None


class Collector:
    """What receives spans over HTTP, as OTLP has them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.names += [span.name for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("by", ["setting", "environment"])
def test_a_collector_gets_the_last_spans_too(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    if by == "environment":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    settings: dict[str, Any] = {"otlp_endpoint": collector.url} if by == "setting" else {}
    with Served(tmp_path, log_format="json", **settings) as server:
        server.client.post("/v1/tokenize", json={"text": "abc"})
        server.client.get("/v1/models")
    assert collector.names == ["POST /v1/tokenize", "GET /v1/models"]
    collector.close()


def test_a_collector_that_is_not_there_costs_nothing_but_its_spans(tmp_path: Path) -> None:
    with Served(tmp_path, log_format="json", otlp_endpoint="http://127.0.0.1:9") as server:
        for _ in range(20):
            assert server.client.get("/v1/models").status_code == 200
        server.process.terminate()
        assert server.process.wait(10) == 0
