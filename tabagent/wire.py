"""What gateway and worker say to each other: msgpack of these structs, one per frame.

The gateway sends commands, each with an `id` of its own choosing; the worker answers every command
with exactly one of Done, Failed or (for Generate) Finished, after any number of Pieces.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

PROTOCOL: Final = 1
"""Raised when these structs change; the handshake compares it."""

FinishReason = Literal["stop", "length"]
StopCause = Literal["eos", "stop", "length", "context", "halted"]


class _Message(msgspec.Struct, tag=True, omit_defaults=True):
    pass


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn. None leaves it to the model file, then to the engine."""

    temperature: float | None = None
    top_k: int | None = None  # 0: all
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None  # tokens that all three penalties look back on
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool = False


# ---- gateway -> worker --------------------------------------------------------------------------
class Load(_Message):
    """Load the model at `path`. Answered by Done(LoadedModel as a dict)."""

    id: int
    path: str
    n_ctx: int  # context of one sequence in tokens
    slots: int  # sequences decoded together
    kv_tokens: int  # room that all sequences share
    threads: int
    queue_wait_s: float  # how long a request may wait for a slot


class Render(_Message):
    """Apply the chat template. Answered by Done({text, tokens})."""

    id: int
    messages: list[dict[str, Any]]
    variables: dict[str, Any] = {}
    add_generation_prompt: bool = True


class Tokenize(_Message):
    """Answered by Done({tokens, pieces})."""

    id: int
    text: str
    add_special: bool = False
    parse_special: bool = False


class Detokenize(_Message):
    """Answered by Done({text})."""

    id: int
    tokens: list[int]


class Generate(_Message):
    """Continue `messages` (through the chat template) or `text`. Answered by Pieces, Finished."""

    id: int
    sampling: Sampling
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    variables: dict[str, Any] = {}
    max_tokens: int | None = None  # None: what the context leaves
    stop: list[str] = []


class Cancel(_Message):
    """Stop command `id`. With `halt` it still answers Finished; without, nobody listens."""

    id: int
    halt: bool = False


class Shutdown(_Message):
    """Leave now; what still runs is dropped."""


# ---- worker -> gateway --------------------------------------------------------------------------
class Hello(_Message):
    pid: int
    protocol: int
    engine: str


class Beat(_Message):
    """Sent at a fixed pace, whatever the engine is doing."""

    resident_bytes: int
    slots_used: int = 0
    waiting: int = 0
    steps: int = 0  # decode steps so far: no progress with slots in use is a stall


class Progress(_Message):
    """How far a load is, 0 to 1."""

    id: int
    fraction: float


class Pieces(_Message):
    """Text of one decode step, for every request that gained some: (id, text, tokens so far)."""

    items: list[tuple[int, str, int]]


class Usage(msgspec.Struct, omit_defaults=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    queued_ms: float = 0.0
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class Finished(_Message):
    id: int
    reason: FinishReason
    cause: StopCause
    usage: Usage


class Done(_Message):
    id: int
    result: dict[str, Any] = {}


class Failed(_Message):
    """`slug` and `members` rebuild the error on the other side."""

    id: int
    slug: str
    detail: str
    members: dict[str, Any] = {}


Command = Load | Render | Tokenize | Detokenize | Generate | Cancel | Shutdown
Event = Hello | Beat | Progress | Pieces | Finished | Done | Failed

encode: Final = msgspec.msgpack.Encoder().encode
decode_command: Final = msgspec.msgpack.Decoder(Command).decode
decode_event: Final = msgspec.msgpack.Decoder(Event).decode
