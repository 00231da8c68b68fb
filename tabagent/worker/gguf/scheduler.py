"""Many sequences in one context: who gets which slot, and what the next decode step computes.

Every sequence is a list of tokens of which the first `done` are in the KV cache; a step computes
the next ones for as many sequences as fit. A sequence whose tokens are all computed has logits,
and gets one token more. Prompts therefore join at any step, in chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from tabagent import wire
from tabagent.errors import QueueTimeout
from tabagent.worker.backend import failed
from tabagent.worker.gguf.native import Context
from tabagent.worker.gguf.sampling import Sampler
from tabagent.worker.text import TextStream

STEP_S: Final = 0.5  # a prefill chunk aims at this, so that a cancel never waits longer
SMALLEST_CHUNK: Final = 32
FIRST_CHUNK: Final = 128  # while the speed is not known


@dataclass(eq=False)
class Sequence:
    """One request: its tokens, how far they are computed, and how its text leaves."""

    id: int
    tokens: list[int]
    sampler: Sampler
    text: TextStream
    limit: int  # most tokens to generate
    limit_cause: wire.StopCause  # what it means to reach it
    prompt_length: int = 0
    done: int = 0
    slot: int = -1
    cached: int = 0
    queued_at: float = field(default_factory=monotonic)
    started_at: float = 0.0
    first_at: float = 0.0

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    def usage(self) -> wire.Usage:
        now = monotonic()
        started = self.started_at or now
        return wire.Usage(
            prompt_tokens=self.prompt_length,
            completion_tokens=self.generated,
            cached_tokens=self.cached,
            queued_ms=(started - self.queued_at) * 1e3,
            prompt_ms=((self.first_at or now) - started) * 1e3,
            predicted_ms=(now - self.first_at) * 1e3 if self.first_at else 0.0,
        )


@dataclass(slots=True)
class _Slot:
    """A sequence id of the context. A free slot keeps its tokens computed: the next may share them."""

    tokens: list[int] = field(default_factory=list)
    used_at: float = 0.0


class Scheduler:
    """Runs sequences in `context`. `piece` gives a token's bytes; `ends` are the end tokens."""

    def __init__(
        self,
        context: Context,
        slots: int,
        piece: Callable[[int], bytes],
        ends: frozenset[int],
        queue_wait_s: float,
    ) -> None:
        self._context, self._piece, self._ends = context, piece, ends
        self._queue_wait_s = queue_wait_s
        self._free = {number: _Slot() for number in range(slots)}
        self._running: list[Sequence] = []  # oldest first
        self._waiting: deque[Sequence] = deque()
        self._speed = 0.0  # prompt tokens a second, smoothed
        self.steps = 0

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, sequence: Sequence) -> None:
        sequence.prompt_length = len(sequence.tokens)
        self._waiting.append(sequence)

    def cancel(self, id_: int) -> Sequence | None:
        """Take a sequence out, wherever it is; its slot is free at once."""
        for sequence in (*self._running, *self._waiting):
            if sequence.id == id_:
                self._retire(sequence)
                return sequence
        return None

    def step(self) -> list[wire.Event]:
        """One decode step and its events: Pieces for all, then Finished and Failed."""
        self._admit()
        events = self._expire()
        batch = self._fill()
        if not batch:
            return events
        self.steps += 1
        pieces: list[tuple[int, str, int]] = []
        for sequence, index in batch:
            if index < 0:
                continue  # its prompt goes on next step
            event = self._advance(sequence, index, pieces)
            if event is not None:
                events.append(event)
        return [wire.Pieces(pieces), *events] if pieces else events

    # ---- slots ----------------------------------------------------------------------------------
    def _expire(self) -> list[wire.Event]:
        """Turn away who waited too long, but none that had begun and lost its place to others."""
        since = monotonic() - self._queue_wait_s
        late = [s for s in self._waiting if not s.started_at and s.queued_at <= since]
        for sequence in late:
            self._retire(sequence)
        error = QueueTimeout(f"no slot came free in {self._queue_wait_s:g} s", retry_after=5)
        return [failed(sequence.id, error) for sequence in late]

    def _admit(self) -> None:
        while self._waiting and self._free and self._fits(self._waiting[0]):
            sequence = self._waiting.popleft()
            number = max(self._free, key=lambda n: self._worth(self._free[n], sequence))
            slot = self._free.pop(number)
            # The last prompt token is computed anew: its logits are needed.
            shared = min(_common(slot.tokens, sequence.tokens), len(sequence.tokens) - 1)
            if len(slot.tokens) > shared and not self._context.forget(number, shared):
                self._context.forget(number)  # this kind of memory is kept whole or not at all
                shared = 0
            sequence.slot, sequence.done = number, shared
            if not sequence.started_at:
                sequence.started_at, sequence.cached = monotonic(), shared
            self._running.append(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether it has room beside what runs: else it would be thrown out again at once."""
        taken = sum(len(other.tokens) for other in self._running)
        return not taken or taken + len(sequence.tokens) < self._context.kv_tokens

    def _worth(self, slot: _Slot, sequence: Sequence) -> tuple[int, float]:
        """Most of this prompt wins, then the longest unused.

        A short beginning that all prompts share is not worth another conversation's memory.
        """
        shared = _common(slot.tokens, sequence.tokens)
        same = 2 * shared >= min(len(slot.tokens), len(sequence.tokens))
        return shared if same else 0, -slot.used_at

    def _retire(self, sequence: Sequence) -> None:
        sequence.sampler.close()
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._free[sequence.slot] = _Slot(sequence.tokens[: sequence.done], monotonic())
        sequence.slot = -1

    def _make_room(self) -> bool:
        """Free KV cells: first what idle slots remember, then the youngest running sequence."""
        idle = [(slot.used_at, number) for number, slot in self._free.items() if slot.tokens]
        if idle:
            self._drop(min(idle)[1])
            return True
        if len(self._running) < 2:
            return False
        youngest = self._running[-1]
        number = youngest.slot
        self._leave(youngest)
        self._drop(number)
        self._waiting.appendleft(youngest)  # its tokens are kept and computed again later
        return True

    def _drop(self, number: int) -> None:
        self._context.forget(number)
        self._free[number].tokens = []

    # ---- one step -------------------------------------------------------------------------------
    def _fill(self) -> list[tuple[Sequence, int]]:
        """Decode a batch; (sequence, index of its logits or -1) for each that is in it."""
        while self._running:
            began = monotonic()
            undo = [(sequence, sequence.done) for sequence in self._running]
            batch, prompt_tokens = self._build()
            if self._context.decode():
                if prompt_tokens >= SMALLEST_CHUNK:
                    speed = prompt_tokens / max(monotonic() - began, 1e-6)
                    self._speed = speed if not self._speed else (self._speed * 3 + speed) / 4
                return batch
            for sequence, before in undo:
                sequence.done = before
            if not self._make_room():
                raise RuntimeError("one sequence does not fit into the KV cache")
        return []

    def _build(self) -> tuple[list[tuple[Sequence, int]], int]:
        context = self._context
        context.clear_batch()
        room = context.batch_size - len(self._running)
        chunk = int(self._speed * STEP_S) if self._speed else FIRST_CHUNK
        budget = min(room, max(SMALLEST_CHUNK, chunk))
        batch: list[tuple[Sequence, int]] = []
        prompt_tokens = 0
        for sequence in self._running:
            left = len(sequence.tokens) - sequence.done
            take = left if left == 1 else min(left, budget)
            if take <= 0:
                continue
            if left > 1:
                budget -= take
                prompt_tokens += take
            tokens = sequence.tokens[sequence.done : sequence.done + take]
            index = context.add(sequence.slot, sequence.done, tokens, logits=take == left)
            sequence.done += take
            batch.append((sequence, index if take == left else -1))
        return batch, prompt_tokens

    def _advance(
        self, sequence: Sequence, index: int, pieces: list[tuple[int, str, int]]
    ) -> wire.Event | None:
        """Give a sequence its next token; what ends it, if that does."""
        token = sequence.sampler.sample(self._context, index)
        sequence.first_at = sequence.first_at or monotonic()
        cause: wire.StopCause | None = None
        if token in self._ends:
            cause, text = "eos", sequence.text.flush()
        else:
            sequence.tokens.append(token)
            text = sequence.text.feed(self._piece(token))
            if sequence.generated >= sequence.limit:
                cause = sequence.limit_cause
                text += sequence.text.flush()
            if sequence.text.stopped:
                cause = "stop"
        if text:
            pieces.append((sequence.id, text, sequence.generated))
        if cause is None:
            return None
        self._retire(sequence)
        return finished(sequence, cause)


def finished(sequence: Sequence, cause: wire.StopCause) -> wire.Finished:
    reason: wire.FinishReason = "length" if cause in ("length", "context") else "stop"
    return wire.Finished(sequence.id, reason, cause, sequence.usage())


def _common(a: list[int], b: list[int]) -> int:
    """Length of the longest common beginning."""
    if a[: len(b)] == b[: len(a)]:
        return min(len(a), len(b))
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
