"""What Prometheus reads is what happened, under names that are kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families

from scripts.metrics import LIST, table
from tabagent.errors import CATALOGUE
from tabagent.exposition import FAMILIES
from tabagent.telemetry.event_loop import Lag
from tests.bridge import NativeClient, approve
from tests.engine.test_memory import A, B
from tests.engine.test_memory import server as narrow
from tests.live import EMBEDDER, FAKE, LiveServer, chat_body, eventually, fake_models
from tests.transports.test_http import start_chat

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        yield server


def read(server: LiveServer) -> Samples:
    response = server.client.get("/metrics")
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def test_names_kinds_and_labels_are_those_of_the_list(live: LiveServer) -> None:
    live.chat("3")
    found = {
        family.name: family
        for family in text_string_to_metric_families(live.client.get("/metrics").text)
    }
    assert LIST.read_text() == table(), "run: python -m scripts.metrics"
    for family in FAMILIES:
        parsed = found.pop(family.name.removesuffix("_total"))
        assert (parsed.type, parsed.documentation) == (family.kind, family.help)
        for sample in parsed.samples:
            assert set(sample.labels) - {"le"} == set(family.labels), family.name
    assert not found, "metrics that the list does not name"


def test_requests_are_counted_by_operation_transport_and_outcome(live: LiveServer) -> None:
    live.chat("3")
    live.chat("3", n=0)
    live.client.get("/v1/models")
    live.client.get("/nowhere")
    live.client.get("/v1/clients")
    live.client.get("/v1/models", headers={"Host": "elsewhere"})
    samples = read(live)
    count = "tabagent_requests_total"
    assert value(samples, count, operation="chat", transport="http", outcome="ok") == 1
    assert value(samples, count, operation="chat", transport="http", outcome="invalid-request") == 1
    assert value(samples, count, operation="models", transport="http", outcome="ok") == 1
    assert value(samples, count, operation="none", transport="http", outcome="not-found") == 1
    assert (
        value(samples, count, operation="none", transport="http", outcome="host-not-allowed") == 1
    )
    refused = {"operation": "list_clients", "transport": "http", "outcome": "unauthorized"}
    assert value(samples, count, **refused) == 1
    assert value(samples, "tabagent_problems_total", problem="unauthorized", transport="http") == 1
    duration = "tabagent_request_duration_seconds"
    assert value(samples, f"{duration}_count", operation="chat", transport="http") == 2
    assert (value(samples, f"{duration}_sum", operation="chat", transport="http") or 0) > 0
    assert value(samples, "tabagent_requests_running") == 1  # this one
    assert value(read(live), count, operation="metrics", transport="http", outcome="ok") == 1


def test_who_hangs_up_is_counted_as_gone_and_never_as_an_error(live: LiveServer) -> None:
    with start_chat(live, "1000 sleep", stream=True) as held:
        held.recv(1000)
        assert value(read(live), "tabagent_requests_running") == 2
    gone = {"operation": "chat", "transport": "http", "outcome": "cancelled"}
    eventually(lambda: value(read(live), "tabagent_requests_total", **gone) == 1)
    samples = read(live)
    assert value(samples, "tabagent_model_requests_total", model=FAKE, outcome="cancelled") == 1
    generated = value(samples, "tabagent_generated_tokens_total", model=FAKE)
    assert generated is not None and 0 < generated < 1000
    assert not any(name == "tabagent_problems_total" for name, _ in samples)


def test_a_problem_in_mid_stream_is_the_outcome(live: LiveServer) -> None:
    with live.client.stream(
        "POST", "/v1/chat/completions", json=chat_body("9 crash", stream=True)
    ) as response:
        assert "event: error" in response.read().decode()
    samples = read(live)
    crashed = {"operation": "chat", "transport": "http", "outcome": "worker-crashed"}
    assert value(samples, "tabagent_requests_total", **crashed) == 1
    eventually(lambda: value(read(live), "tabagent_worker_restarts_total", model=FAKE) == 1)


def test_messages_are_requests_of_their_own_transport(live: LiveServer) -> None:
    approve(live)
    with NativeClient(live) as extension:
        extension.reply("chat", chat_body("4"))
        extension.reply("no_such_operation")
        extension.say(request_id="x", event="part", seq=7, more=True, text="")
        eventually(
            lambda: (
                value(
                    read(live),
                    "tabagent_problems_total",
                    problem="malformed-request",
                    transport="native",
                )
                == 1
            )
        )
        samples = read(live)
        assert value(samples, "tabagent_native_connections") == 1
    count = "tabagent_requests_total"
    assert value(samples, count, operation="chat", transport="native", outcome="ok") == 1
    assert value(samples, count, operation="none", transport="native", outcome="not-found") == 1
    assert not value(
        samples, count, operation="none", transport="native", outcome="malformed-request"
    )
    eventually(lambda: value(read(live), "tabagent_native_connections") == 0)


def test_tokens_and_their_times_are_those_of_the_answers(live: LiveServer) -> None:
    usage = [live.chat("20").json()["usage"] for _ in range(3)]
    live.client.post("/v1/embeddings", json={"model": EMBEDDER, "input": ["abc", "d"]})
    samples = read(live)
    generated = sum(one["completion_tokens"] for one in usage)
    assert value(samples, "tabagent_generated_tokens_total", model=FAKE) == generated
    prompts = sum(one["prompt_tokens"] for one in usage)
    assert value(samples, "tabagent_prompt_tokens_total", model=FAKE) == prompts
    assert (value(samples, "tabagent_prompt_tokens_total", model=EMBEDDER) or 0) > 0
    assert value(samples, "tabagent_time_to_first_token_seconds_count", model=FAKE) == 3
    between = value(samples, "tabagent_time_between_tokens_seconds_count", model=FAKE)
    assert between == generated - 3  # each but the first of an answer
    assert value(samples, "tabagent_model_requests_total", model=FAKE, outcome="ok") == 3
    assert value(samples, "tabagent_model_slots", model=FAKE) == 8
    assert value(samples, "tabagent_model_state", model=FAKE, state="ready") == 1
    assert (value(samples, "tabagent_model_memory_bytes", model=FAKE) or 0) > 2**20


def test_time_between_tokens_is_what_passes_between_them(live: LiveServer) -> None:
    live.chat("6 sleep")  # 50 ms each
    samples = read(live)
    name = "tabagent_time_between_tokens_seconds"
    mean = (value(samples, f"{name}_sum", model=FAKE) or 0) / 5
    assert 0.03 < mean < 0.2
    assert value(samples, f"{name}_bucket", model=FAKE, le="0.02") == 0


def test_slots_and_queue_are_those_of_now(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), slots=1) as live:
        held = [start_chat(live, "1000 sleep") for _ in range(3)]
        eventually(lambda: value(read(live), "tabagent_model_queue_length", model=FAKE) == 2)
        assert value(read(live), "tabagent_model_slots_used", model=FAKE) == 1
        assert value(read(live), "tabagent_model_requests_running", model=FAKE) == 3
        for connection in held:
            connection.close()
        eventually(lambda: value(read(live), "tabagent_model_slots_used", model=FAKE) == 0)


def test_models_that_come_and_go_are_counted(live: LiveServer) -> None:
    for _ in range(2):
        live.owner.post("/v1/models/load", json={"model": FAKE})
        live.owner.post("/v1/models/unload", json={"model": FAKE})
    live.chat("1")
    os.kill(live.worker().pid, signal.SIGKILL)
    eventually(lambda: value(read(live), "tabagent_worker_restarts_total", model=FAKE) == 1)
    eventually(lambda: value(read(live), "tabagent_model_loads_total", model=FAKE) == 4)
    samples = read(live)
    assert value(samples, "tabagent_model_load_duration_seconds_count") == 4
    assert not any(name == "tabagent_model_evictions_total" for name, _ in samples)


def test_a_model_that_made_room_is_counted_and_one_that_was_let_go_is_not(tmp_path: Path) -> None:
    with narrow(tmp_path, room=1.2) as live:
        for model in (A, B):
            live.answer("1", model)
        samples = read(live)
        assert value(samples, "tabagent_model_evictions_total", model=A) == 1
        assert value(samples, "tabagent_model_evictions_total", model=B) is None


def test_retrieval_counts_its_jobs_documents_and_searches(live: LiveServer) -> None:
    documents = {"documents": [{"text": "foxes dig dens", "source": str(n)} for n in range(3)]}
    live.owner.post("/v1/rag/collections", json={"name": "c", "model": EMBEDDER})
    live.client.post("/v1/rag/documents", json={"collection": "c", **documents})
    asked = {"query": "fox", "collections": ["c"], "model": FAKE}
    assert live.client.post("/v1/rag/query", json=asked).status_code == 200
    assert live.owner.post("/v1/rag/collections/c/rebuild", json={}).status_code == 200
    eventually(lambda: (value(read(live), "tabagent_index_rebuilds_total") or 0) >= 2)
    eventually(lambda: value(read(live), "tabagent_retrieval_jobs_running") == 0)
    samples = read(live)
    jobs = "tabagent_retrieval_jobs_total"
    assert value(samples, jobs, kind="documents", state="done") == 1
    assert value(samples, jobs, kind="index", state="done") == 1
    assert value(samples, "tabagent_documents_total", change="added") == 3
    assert value(samples, "tabagent_search_duration_seconds_count") == 1


def test_the_process_tells_of_itself(live: LiveServer) -> None:
    samples = read(live)
    assert (value(samples, "process_cpu_seconds_total") or 0) > 0
    assert (value(samples, "process_resident_memory_bytes") or 0) > 10 * 2**20
    assert (value(samples, "process_open_fds") or 0) > 5
    assert value(samples, "tabagent_event_loop_lag_seconds") is not None


async def test_a_loop_that_is_held_up_shows() -> None:
    import asyncio
    import time

    lag = Lag()
    lag.start()
    await asyncio.sleep(0.01)
    time.sleep(0.6)
    await asyncio.sleep(0.01)
    assert lag.worst > 0.2
    await lag.stop()


def test_labels_hold_nothing_that_a_caller_wrote(live: LiveServer) -> None:
    """Their number is bounded, however many odd things are asked for."""
    operations = live.gateway.dispatcher.operations.keys() | {"none", "metrics"}
    for n in range(30):
        live.client.get(f"/odd/{n}")
        live.chat("1", f"odd/model{n}")
        live.client.get(f"/v1/models/odd/{n}")
        live.client.get(f"/v1/sessions/odd{n}")
        live.client.post("/v1/pair", json={}, headers={"Origin": f"chrome-extension://{n:032}"})
    samples = read(live)
    assert not any("odd" in text for _, labels in samples for _, text in labels)
    for name, labels in samples:
        if name == "tabagent_requests_total":
            found = dict(labels)
            assert found["operation"] in operations
            assert found["outcome"] in CATALOGUE.keys() | {"ok", "cancelled"}


def test_the_format_is_the_one_that_was_asked_for(live: LiveServer) -> None:
    live.chat("3")
    plain = live.client.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    newer = live.client.get("/metrics", headers=accept)
    assert newer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics(newer.text)}  # type: ignore[no-untyped-call]  # theirs
    assert names == {family.name.removesuffix("_total") for family in FAMILIES}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, "origin-not-allowed"),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, "origin-not-allowed"),
        ({"Sec-Fetch-Site": "cross-site"}, "origin-not-allowed"),
        ({"Origin": "https://example.com"}, "origin-not-allowed"),
        ({"Host": "rebound.example"}, "host-not-allowed"),
    ],
)
def test_no_page_reads_them(live: LiveServer, headers: dict[str, str], code: str) -> None:
    own = {"Origin": live.url} if headers.get("Sec-Fetch-Mode") == "cors" else {}
    for client in (live.client, live.owner):
        response = client.get("/metrics", headers=headers | own)
        assert response.json()["code"] == code


def test_a_token_is_needed_where_all_need_one(tmp_path: Path) -> None:
    with LiveServer(tmp_path, auth="always") as live:
        assert live.client.get("/metrics").json()["code"] == "unauthorized"
        assert live.owner.get("/metrics").status_code == 200
        assert live.owner.post("/metrics", json={}).status_code == 405
