"""What Prometheus is told: every metric by name, and where its value is read.

The server counts in plain numbers of its own, since prometheus_client's cost three times as much
where requests and tokens are counted; it writes the text, and is imported when first asked for.
Labels are names out of our own tables, and models that are here: their number is bounded.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tabagent import __version__, logs
from tabagent.dispatcher import Dispatcher
from tabagent.engine.loaded import Loaded
from tabagent.engine.meter import Meter, Meters
from tabagent.engine.supervisor import Supervisor
from tabagent.replays import Replays
from tabagent.retrieval.library import Library
from tabagent.services.pulls import Pulls
from tabagent.telemetry.event_loop import Lag
from tabagent.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Sources:
    """What is counted where. `native` and `peers` are how many are connected."""

    dispatcher: Dispatcher
    supervisor: Supervisor
    meters: Meters
    library: Library
    pulls: Pulls
    replays: Replays
    lag: Lag
    native: Callable[[], int]
    peers: Callable[[], int]


Value = float | Histogram
Rows = Iterator[tuple[tuple[str, ...], Value]]
Read = Callable[[Sources], Rows]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `read` yields its values with those of its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    read: Read


def _one(read: Callable[[Sources], Value]) -> Read:
    def rows(s: Sources) -> Rows:
        yield (), read(s)

    return rows


def _counted(read: Callable[[Sources], Counter[Any]]) -> Read:
    def rows(s: Sources) -> Rows:
        for key, count in read(s).items():
            yield (key if isinstance(key, tuple) else (key,)), count

    return rows


def _metered(read: Callable[[Meter], Value]) -> Read:
    def rows(s: Sources) -> Rows:
        for model, meter in s.meters.all().items():
            yield (model,), read(meter)

    return rows


def _loaded(read: Callable[[Loaded], float]) -> Read:
    def rows(s: Sources) -> Rows:
        for entry in s.supervisor.loaded():
            yield (entry.model.id,), read(entry)

    return rows


def _beat(name: str) -> Read:
    """From the worker's last heartbeat; nothing where there is no worker."""
    return _loaded(lambda entry: getattr(entry.process.beat, name) if entry.process else 0)


def _model_requests(s: Sources) -> Rows:
    for model, meter in s.meters.all().items():
        yield (model, "ok"), meter.completed
        yield (model, "cancelled"), meter.cancelled
        for slug, count in meter.failed.items():
            yield (model, slug), count


def _model_states(s: Sources) -> Rows:
    for entry in s.supervisor.loaded():
        yield (entry.model.id, "asleep" if entry.asleep else entry.state), 1


def _device_bytes(s: Sources) -> Rows:
    for entry in s.supervisor.loaded():
        for device, size in entry.device_bytes.items():
            yield (entry.model.id, device), size


def _durations(s: Sources) -> Rows:
    yield from s.dispatcher.requests.seconds.items()


def _build(s: Sources) -> Rows:
    yield (__version__, platform.python_version()), 1


def _process(name: str) -> Read:
    """Of the gateway, under the names that Prometheus has for every process."""

    def rows(s: Sources) -> Rows:
        import psutil

        process = psutil.Process()
        if name == "cpu":
            times = process.cpu_times()
            yield (), times.user + times.system
        elif name == "start":
            yield (), process.create_time()
        elif name == "fds":
            if hasattr(process, "num_fds"):
                yield (), process.num_fds()
        else:
            yield (), getattr(process.memory_info(), name)

    return rows


FAMILIES: Final = (
    # Requests
    Family("tabagent_requests_total", "counter", ("operation", "transport", "outcome"),
           "Requests that ended: `ok`, `cancelled` or the code of their problem. Operation `none` is for pages and for what was refused before it came to one.",
           _counted(lambda s: s.dispatcher.requests.ended)),
    Family("tabagent_request_duration_seconds", "histogram", ("operation", "transport"),
           "From the first byte of a request to the last of its answer.", _durations),
    Family("tabagent_requests_running", "gauge", (), "Requests that are being answered now.",
           _one(lambda s: s.dispatcher.requests.running)),
    Family("tabagent_problems_total", "counter", ("problem", "transport"),
           "Problems that were answered, also to what was no request.",
           _counted(lambda s: s.dispatcher.requests.problems)),
    # Models at work
    Family("tabagent_model_requests_total", "counter", ("model", "outcome"),
           "Generations, and requests for vectors, ranks and labels, that ended.", _model_requests),
    Family("tabagent_model_requests_running", "gauge", ("model",),
           "The same at work now, those that wait among them.", _metered(lambda m: m.running)),
    Family("tabagent_model_request_duration_seconds", "histogram", ("model",),
           "Of those that were completed, loading included.", _metered(lambda m: m.seconds)),
    Family("tabagent_generated_tokens_total", "counter", ("model",),
           "Tokens as they were generated, also those of answers that were cut off.",
           _metered(lambda m: m.generated_tokens)),
    Family("tabagent_prompt_tokens_total", "counter", ("model",),
           "Tokens of prompts and of texts that were read.", _metered(lambda m: m.prompt_tokens)),
    Family("tabagent_cached_tokens_total", "counter", ("model",),
           "Of the prompts' tokens: those that had been computed before.",
           _metered(lambda m: m.cached_tokens)),
    Family("tabagent_reasoning_tokens_total", "counter", ("model",),
           "Of the tokens of completed answers: those of reasoning.",
           _metered(lambda m: m.reasoning_tokens)),
    Family("tabagent_time_to_first_token_seconds", "histogram", ("model",),
           "From a request on, loading included.", _metered(lambda m: m.first_token)),
    Family("tabagent_time_between_tokens_seconds", "histogram", ("model",),
           "Of the first choice of each answer.", _metered(lambda m: m.between_tokens)),
    # Models in memory
    Family("tabagent_model_state", "gauge", ("model", "state"), "1 for each model's state now.",
           _model_states),
    Family("tabagent_model_slots", "gauge", ("model",), "Sequences that it decodes together.",
           _loaded(lambda entry: entry.placement.slots)),
    Family("tabagent_model_slots_used", "gauge", ("model",), "Of them in use, as its worker last said.",
           _beat("slots_used")),
    Family("tabagent_model_queue_length", "gauge", ("model",), "Requests that wait for a slot.",
           _beat("waiting")),
    Family("tabagent_model_memory_bytes", "gauge", ("model",),
           "Main memory of its worker, pages of mapped files included.", _beat("resident_bytes")),
    Family("tabagent_model_device_memory_bytes", "gauge", ("model", "device"),
           "Memory of graphics processors that it was given.", _device_bytes),
    Family("tabagent_model_loads_total", "counter", ("model",), "Loads that succeeded.",
           _counted(lambda s: s.supervisor.turnover.loads)),
    Family("tabagent_model_load_duration_seconds", "histogram", (), "How long they took.",
           _one(lambda s: s.supervisor.turnover.load_seconds)),
    Family("tabagent_model_load_failures_total", "counter", ("model", "problem"),
           "Loads that failed.", _counted(lambda s: s.supervisor.turnover.failures)),
    Family("tabagent_model_evictions_total", "counter", ("model",),
           "Models that made room for another.", _counted(lambda s: s.supervisor.turnover.evictions)),
    Family("tabagent_worker_restarts_total", "counter", ("model",),
           "Workers that were started again after a crash.",
           _counted(lambda s: s.supervisor.turnover.restarts)),
    # Connections
    Family("tabagent_native_connections", "gauge", (), "Browsers' hosts that are connected.",
           _one(lambda s: s.native())),
    Family("tabagent_webrtc_peers", "gauge", (), "WebRTC peers that are connected, or about to be.",
           _one(lambda s: s.peers())),
    Family("tabagent_replays", "gauge", (), "Answers that can be followed again.",
           _one(lambda s: s.replays.count)),
    Family("tabagent_replays_bytes", "gauge", (), "Memory that they take.",
           _one(lambda s: s.replays.size)),
    # Retrieval and pulls
    Family("tabagent_search_duration_seconds", "histogram", (),
           "Searches of collections, embedding the question included.",
           _one(lambda s: s.library.tally.searches)),
    Family("tabagent_retrieval_jobs_total", "counter", ("kind", "state"), "Jobs that ended.",
           _counted(lambda s: s.library.tally.jobs)),
    Family("tabagent_retrieval_jobs_running", "gauge", (), "Jobs at work, or waiting for their turn.",
           _one(lambda s: s.library.jobs.running)),
    Family("tabagent_documents_total", "counter", ("change",),
           "Documents that were added, updated or deleted, and those that were not: unchanged, skipped, failed.",
           _counted(lambda s: s.library.tally.documents)),
    Family("tabagent_index_rebuilds_total", "counter", (), "Search tables that were made anew.",
           _one(lambda s: s.library.tally.index_rebuilds)),
    Family("tabagent_pulls", "gauge", ("state",), "Pulls of models by state.",
           _counted(lambda s: s.pulls.states())),
    # The process
    Family("tabagent_build_info", "gauge", ("version", "python"), "1; what runs.", _build),
    Family("tabagent_event_loop_lag_seconds", "gauge", (),
           "The longest that something due had to wait in the last fifteen seconds.",
           _one(lambda s: s.lag.worst)),
    Family("tabagent_log_lines_lost_total", "counter", (), "Lines that the log's target did not take.",
           _one(lambda _: logs.standard_error.lost)),
    Family("process_cpu_seconds_total", "counter", (), "Of the gateway, without its workers.",
           _process("cpu")),
    Family("process_resident_memory_bytes", "gauge", (), "Of the gateway, without its workers.",
           _process("rss")),
    Family("process_virtual_memory_bytes", "gauge", (), "Of the gateway, without its workers.",
           _process("vms")),
    Family("process_open_fds", "gauge", (), "Files and sockets that the gateway has open.",
           _process("fds")),
    Family("process_start_time_seconds", "gauge", (), "When the gateway began, in unix seconds.",
           _process("start")),
)  # fmt: skip

Snapshot = list[tuple[Family, list[tuple[tuple[str, ...], Value]]]]


async def expose(sources: Sources, accept: str) -> tuple[bytes, str]:
    """(text, content type) in the format that `accept` asks for, or Prometheus's plain one.

    Read here, written in a thread: writing a thousand samples takes longer than a token may wait.
    """
    snapshot: Snapshot = [
        (
            family,
            [
                (labels, value.copy() if isinstance(value, Histogram) else value)
                for labels, value in family.read(sources)
            ],
        )
        for family in FAMILIES
    ]
    return await asyncio.to_thread(_write, snapshot, accept)


def _write(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    from prometheus_client import (
        CollectorRegistry,  # late: it costs a start a twentieth of a second
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class Once(Collector):
        def collect(self) -> Iterator[Metric]:
            return (_metric(family, rows) for family, rows in snapshot)

        def describe(self) -> Iterator[Metric]:
            return iter(())

    registry = CollectorRegistry()
    registry.register(Once())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _metric(family: Family, rows: list[tuple[tuple[str, ...], Value]]) -> Metric:
    from prometheus_client import core

    if family.kind == "histogram":
        histogram = core.HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in rows:
            assert isinstance(value, Histogram)
            histogram.add_metric(labels, _buckets(value), value.sum)
        return histogram
    kind = core.CounterMetricFamily if family.kind == "counter" else core.GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in rows:
        assert not isinstance(value, Histogram)
        metric.add_metric(labels, value)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    from prometheus_client.utils import floatToGoString

    total = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        found.append((floatToGoString(bound), total))  # type: ignore[no-untyped-call]  # theirs
    return found
