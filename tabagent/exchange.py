"""One request and its answer, for whoever counts, logs or traces it.

Known to all code that its task runs: a log line says whose it is, a generation says what it took.
Nothing of what was asked or answered is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

NO_OPERATION: Final = "none"
CANCELLED: Final = "cancelled"
OK: Final = "ok"
MOST_INFERENCES: Final = 64  # of one exchange that are kept


@dataclass(slots=True, eq=False)
class Inference:
    """What one request to a model took. Times are monotonic."""

    kind: str  # the model's task
    model: str
    began: float = field(default_factory=monotonic)
    first: float = 0.0  # when its first token came
    ended: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    outcome: str = OK


@dataclass(slots=True, eq=False)
class Exchange:
    """`outcome` is the slug of its problem, CANCELLED where the client left, else OK."""

    transport: str
    operation: str = NO_OPERATION
    route: str = ""  # as the table has it, never as it was asked for
    request_id: str = ""
    caller: str = ""
    audited: bool = False
    about: dict[str, str] | None = None  # of an audited one: what it concerns
    began: float = field(default_factory=monotonic)
    status: int = 0  # of HTTP
    sent: int = 0  # bytes
    answered: bool = False  # to the last byte
    outcome: str = OK
    ended: bool = False
    inferences: tuple[Inference, ...] = ()
    headers: Sequence[tuple[bytes, bytes]] = ()  # of HTTP, for who traces

    def concerns(self, operation: str, route: str, request_id: str, caller: str) -> None:
        self.operation, self.route = operation, route
        self.request_id, self.caller = request_id, caller

    def left(self) -> None:
        """The client does not want the answer any more."""
        self.outcome = CANCELLED

    def took(self, inference: Inference) -> None:
        """What goes on when the answer has ended, such as a job, is no part of it."""
        if not self.ended and len(self.inferences) < MOST_INFERENCES:
            self.inferences += (inference,)


EXCHANGE: Final[ContextVar[Exchange | None]] = ContextVar("exchange", default=None)
"""The one that the running task serves."""


def failed(slug: str) -> None:
    """The exchange is answered with this problem."""
    if one := EXCHANGE.get():
        one.outcome = slug


def request_id() -> str:
    """Of the exchange that is served here; empty where there is none, or it has ended."""
    one = EXCHANGE.get()
    return one.request_id if one and not one.ended else ""
