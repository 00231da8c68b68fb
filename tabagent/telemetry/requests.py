"""Every request when it has ended: counted, and told to the logs and to whoever traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import structlog

from tabagent.exchange import CANCELLED, EXCHANGE, OK, Exchange
from tabagent.logs import audit
from tabagent.operation import Access, Call, Operation, Request
from tabagent.telemetry.histogram import Histogram

log = structlog.get_logger(__name__)

PROBES: Final = frozenset({"health", "live", "ready", "metrics"})
"""What is asked every few seconds for ever; logged for who debugs."""
ABOUT: Final = (
    "model", "repo_id", "variant", "id", "client_id", "extension_id", "origin", "collection",
    "folder_id", "path", "access", "force",
)  # fmt: skip
"""Parameters of ADMIN operations that say what they are about; all others may be private."""
Listen = Callable[[Exchange, float], None]
"""Hears of an exchange that has ended, and how many seconds it took."""


class Requests:
    """`access_log`: whether each is a line of the log."""

    def __init__(self, *, access_log: bool = False) -> None:
        self.ended: Counter[tuple[str, str, str]] = Counter()  # operation, transport, outcome
        self.seconds: dict[tuple[str, str], Histogram] = {}  # operation, transport
        self.problems: Counter[tuple[str, str]] = Counter()  # slug, transport
        self.running = 0
        self.trace: Listen | None = None
        self._access_log = access_log

    def begin(self, transport: str) -> Exchange:
        """One that the running task serves from now on: a task of its own."""
        self.running += 1
        one = Exchange(transport)
        EXCHANGE.set(one)
        return one

    def end(self, one: Exchange) -> None:
        """Called once for each, at the end of its answer. It does as little as can be."""
        one.ended = True
        self.running -= 1
        seconds = monotonic() - one.began
        operation, transport, outcome = one.operation, one.transport, one.outcome
        self.ended[operation, transport, outcome] += 1
        histogram = self.seconds.get((operation, transport))
        if histogram is None:
            histogram = self.seconds[operation, transport] = Histogram()
        histogram.observe(seconds)
        if outcome != OK and outcome != CANCELLED:
            self.problems[outcome, transport] += 1
        if one.audited:
            audit.info("admin_call", **_who(one), **(one.about or {}))
        if self._access_log:
            _log(one, seconds)
        if self.trace:
            self.trace(one, seconds)

    def refuse(self, slug: str, transport: str) -> None:
        """What came was no request, and was told so."""
        self.problems[slug, transport] += 1


def concerns(operation: Operation, call: Call) -> None:
    """The exchange that is served here asks for this."""
    if one := EXCHANGE.get():
        one.concerns(operation.name, operation.route, call.request_id, call.caller)
        one.audited = operation.access is Access.ADMIN


def about(request: Request) -> None:
    """What an audited exchange concerns, once it may be asked for and is well-formed."""
    if one := EXCHANGE.get():
        values = ((name, getattr(request, name, None)) for name in ABOUT)
        one.about = {name: str(value) for name, value in values if value is not None}


def _who(one: Exchange) -> dict[str, Any]:
    return {
        "request_id": one.request_id,
        "operation": one.operation,
        "transport": one.transport,
        "caller": one.caller or "nobody",
        "outcome": one.outcome,
    }


def _log(one: Exchange, seconds: float) -> None:
    line: dict[str, Any] = {**_who(one), "ms": round(seconds * 1000, 2), "bytes": one.sent}
    if one.route:
        line["route"] = one.route
    if one.status:
        line["status"] = one.status
    if one.inferences:
        line["prompt_tokens"] = sum(each.prompt_tokens for each in one.inferences)
        line["completion_tokens"] = sum(each.completion_tokens for each in one.inferences)
    (log.debug if one.operation in PROBES else log.info)("request", **line)
