"""Many answers from one decoder: prompts are read in pieces between the steps of those that speak."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Final, TypeAlias

import numpy as np

from tabagent import wire
from tabagent.worker.generation import sequence
from tabagent.worker.generation.model import Logits
from tabagent.worker.generation.sampling import Sampler
from tabagent.worker.generation.turns import Advance, Turns
from tabagent.worker.onnx.decoder import Batch, Decoder, Memory

WORTH: Final = 16  # tokens that are worth taking over from another
KEPT: Final = 32  # texts

Generation: TypeAlias = sequence.Generation["Sequence"]


class Sequence(sequence.Choice):
    """One choice, and what is computed of it: in a memory of its own, or in the batch."""

    def __init__(
        self, generation: Generation, index: int, sampler: Sampler, piece: Callable[..., bytes]
    ) -> None:
        super().__init__(generation, index, sampler, piece)
        self.generation: Generation = generation
        self.memory: Memory | None = None  # None before its turn comes, and while in the batch
        self.done = 0

    @property
    def left(self) -> int:
        """Tokens that are not computed yet: one while it speaks, more in its prompt."""
        return len(self.tokens) - self.done


class OnnxScheduler(Turns[Sequence]):
    """Runs generations in `decoder`. `room` is in tokens of all sequences together; `kept_bytes` are
    for what ended, which others may begin like.
    """

    def __init__(
        self,
        decoder: Decoder,
        slots: int,
        ends: frozenset[int],
        queue_wait_s: float,
        *,
        room: int,
        kept_bytes: int,
    ) -> None:
        super().__init__(slots, queue_wait_s)
        self._decoder, self._ends, self._limit = decoder, ends, kept_bytes
        self._batch, self._speaking = Batch(decoder), list[Sequence]()
        self._kept: OrderedDict[tuple[int, ...], Memory] = OrderedDict()
        self._had: set[Sequence] = set()  # a turn, since all had one
        self._room = room

    def step(self) -> list[wire.Event]:
        """A piece of one prompt, and a token for each that speaks."""
        while self._waiting and len(self._running) < self._slots and self._fits(self._waiting[0]):
            self._start(self._waiting.popleft())
        expired = self._expire()
        if not self._running:
            return expired
        self.steps += 1
        return [*self._tell(self._advances()), *expired]

    def _advances(self) -> Iterator[tuple[Sequence, Advance]]:
        """Whoever has something computed, and what gives it its next token."""
        speaking = list(self._speaking)
        if speaking:
            rows = self._batch.step([s.tokens[s.done] for s in speaking])
            for one in speaking:
                one.done += 1
            for one, row in zip(speaking, rows, strict=True):
                if one in self._running:  # its generation may have failed by another choice
                    yield one, partial(self._next, one, row)
        apart = [s for s in self._running if s.memory is not None]
        for one in apart:  # who speaks and cannot be in the batch goes on as fast
            if one.generated and one in self._running:
                yield from self._go_on(one)
        if reading := [s for s in apart if not s.generated and s in self._running]:
            yield from self._go_on(self._turn(reading))

    def _go_on(self, sequence: Sequence) -> Iterator[tuple[Sequence, Advance]]:
        if (row := self._read(sequence)) is not None:
            yield sequence, partial(self._next, sequence, row)

    def _turn(self, reading: list[Sequence]) -> Sequence:
        """They take turns: a short question does not wait for a long text. Choices of one request
        wait for the first of them, which reads for all.
        """
        first = {one.generation: one for one in reversed(reading)}
        ready = [one for one in reading if one.done or first[one.generation] is one]
        chosen = next((one for one in ready if one not in self._had), None)
        if chosen is None:
            self._had.clear()
            chosen = ready[0]
        self._had.add(chosen)
        return chosen

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there is room for all that it may say beside what runs: nothing is thrown out."""
        taken = sum(len(one.tokens) + one.room for one in self._running)
        return not taken or taken + len(sequence.tokens) + sequence.room <= self._room

    def _start(self, sequence: Sequence) -> None:
        sequence.memory, sequence.done = self._decoder.nothing, 0
        self._running.append(sequence)
        generation = sequence.generation
        generation.started_at = generation.started_at or monotonic()

    def _take_over(self, sequence: Sequence) -> None:
        """Begin with what was computed of another that begins alike."""
        if sequence.scores:
            return  # every token's logits are wanted
        found, tokens = self._like(sequence.tokens)
        if found is not None:
            sequence.memory, sequence.done = found.cut(tokens), tokens
            if sequence.index == 0:
                sequence.generation.cached = tokens

    def _like(self, tokens: list[int]) -> tuple[Memory | None, int]:
        """What begins as these do, and how far; the last token is always computed."""
        best: tuple[int, ...] | None = None
        most = WORTH - 1
        wanted = np.array(tokens[:-1])
        for key, memory in self._kept.items():
            length = min(len(key), len(wanted), memory.tokens)
            differs = np.flatnonzero(wanted[:length] != np.array(key[:length]))
            same = int(differs[0]) if len(differs) else length
            if same > most:
                best, most = key, same
        if best is None:
            return None, 0
        self._kept.move_to_end(best)
        return self._kept[best], most

    def _read(self, sequence: Sequence) -> Logits | None:
        """Compute a piece of its prompt; logits of what follows, when that is all of it."""
        if not sequence.done:
            self._take_over(sequence)
        assert sequence.memory is not None
        begin = sequence.done
        piece = sequence.tokens[begin : begin + self._decoder.chunk]
        logits, sequence.memory = self._decoder.read(sequence.memory, piece)
        sequence.done += len(piece)
        if sequence.scores:
            for at, scored in enumerate(logits):
                sequence.score(begin + at, scored)
        if sequence.left:
            return None
        sequence.scores = False
        if not sequence.generated and len(sequence.generation.sequences) > 1:
            self._keep(sequence.tokens, sequence.memory)  # the other choices begin like this
        row: Logits = logits[-1]
        return row

    def _next(self, sequence: Sequence, row: Logits) -> wire.StopCause | None:
        """Draw a token, and put the sequence where its next one will be computed."""
        # The engine's memory may be read only, and a grammar writes into it.
        cause = sequence.append(sequence.draw(row.copy()), self._ends)
        alone = sequence.left > 1 or not self._decoder.together
        if alone and sequence in self._speaking:
            sequence.memory = self._out(sequence)
        elif not alone and sequence.memory is not None and cause is None:
            self._batch.add(sequence.memory)
            self._speaking.append(sequence)
            sequence.memory = None
        return cause

    def _out(self, sequence: Sequence) -> Memory:
        row = self._speaking.index(sequence)
        self._speaking.remove(sequence)
        return self._batch.take(row)

    def _retire(self, sequence: Sequence) -> None:
        sequence.close()
        sequence.generation.sequences.remove(sequence)
        if sequence in self._waiting:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        self._had.discard(sequence)
        memory = self._out(sequence) if sequence in self._speaking else sequence.memory
        sequence.memory = None
        if memory is not None:
            self._keep(sequence.tokens[: memory.tokens], memory)

    def _keep(self, tokens: list[int], memory: Memory) -> None:
        """Keep what is computed of a text while there is room; the longest unused goes first."""
        if memory.bytes > self._limit or not memory.tokens:
            return
        key = tuple(tokens[: memory.tokens])
        for other in [other for other in self._kept if other == key[: len(other)]]:
            del self._kept[other]  # this one holds it too
        self._kept[key] = memory
        while len(self._kept) > KEPT or sum(m.bytes for m in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)

    def forget(self) -> bool:
        """Give back what is kept; whether there was anything."""
        had = bool(self._kept)
        self._kept.clear()
        return had
