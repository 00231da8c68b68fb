"""Many sequences in one context: who runs, and what the next decode step computes.

A step computes the next tokens of as many sequences as fit. A sequence whose tokens are all
computed has logits, and gets one token more. Prompts therefore join at any step, in chunks; what
another sequence has computed, or is about to, is taken over instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from time import monotonic
from typing import Final, Protocol

from tabagent import wire
from tabagent.worker.generation.turns import Turns
from tabagent.worker.gguf.cells import Cells
from tabagent.worker.gguf.context import Adapters, Context
from tabagent.worker.gguf.sequence import Sequence

LONGEST_S: Final = 0.5  # no step aims at more: a cancel, and streams that run, never wait longer
BURST_S: Final = 3.0  # as long may those wait after their first token who came with others
CHUNK_S: Final = 0.2  # what a prefill chunk aims at where anybody waits for the end of a step
SMALLEST_CHUNK: Final = 32
FIRST_CHUNK: Final = 128  # while the speed is not known
WORTH_WAITING: Final = 32  # tokens that another sequence is about to compute for us
SCORED_ROWS: Final = 32  # prompt tokens of one batch whose logits are looked at
MARGIN: Final = 16  # tokens at a prompt's end that the next turn writes differently


class Drafter(Protocol):
    """Guesses what sequences will say next."""

    def propose(self, sequences: list[Sequence], most: int) -> list[list[int]]:
        """At most `most` tokens for each sequence."""

    def learn(self, sequence: Sequence, guessed: int, right: int) -> None:
        """How many of the tokens guessed last turned out right."""

    def drop(self, sequence: Sequence) -> None:
        """A sequence has ended."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(slots=True)
class _Turn:
    """A sequence's part of a batch: `rows` logits rows, the first at batch index `first`."""

    sequence: Sequence
    first: int
    rows: int


class Scheduler(Turns[Sequence]):
    """Runs generations in `context`, `slots` sequences at once. `ends` are the end tokens."""

    def __init__(
        self,
        context: Context,
        cells: Cells,
        slots: int,
        ends: frozenset[int],
        queue_wait_s: float,
        *,
        cuttable: bool,
        drafter: Drafter | None = None,
        draft_tokens: int = 0,
    ) -> None:
        super().__init__(slots, queue_wait_s)
        self._context, self._cells, self._ends = context, cells, ends
        self._cuttable = cuttable
        self._drafter, self._draft_tokens = drafter, draft_tokens
        self._speed = 0.0  # prompt tokens a second, smoothed
        self._spoke_at = 0.0
        self._burst_at = 0.0  # when the first of the prompts came that are being read
        self._last_adapters: Adapters = ()
        self._last_read: Sequence | None = None
        self._bridges: list[tuple[int, int]] = []  # of the batch: id and position

    def step(self) -> list[wire.Event]:
        """One decode step and its events: Pieces for all, then Finished and Failed."""
        self._admit()
        events = self._expire()
        turns = self._compute()
        if not turns:
            return events
        self.steps += 1
        live = (turn for turn in turns if turn.sequence.holder is not None)  # as it goes on
        return [
            *self._tell((turn.sequence, partial(self._advance, turn)) for turn in live),
            *events,
        ]

    def close(self) -> None:
        if self._drafter:
            self._drafter.close()

    # ---- who runs -------------------------------------------------------------------------------
    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._slots and self._fits(self._waiting[0]):
            sequence = self._waiting.popleft()
            generation = sequence.generation
            sequence.holder = self._cells.open(sequence.tokens, generation.adapters)
            self._running.append(sequence)
            self._attach(sequence)
            if not generation.started_at:
                generation.started_at = monotonic()
            if not self._cuttable and not sequence.generated:
                cut = len(sequence.tokens) - MARGIN
                if cut > max(sequence.holder.done, MARGIN):
                    sequence.holder.snapshot_at = cut

    def _fits(self, sequence: Sequence) -> bool:
        """Whether it has room beside what runs: else it would be thrown out again at once."""
        taken = sum(len(other.tokens) - other.shared for other in self._running)
        taken += max((other.shared for other in self._running), default=0)
        return not taken or taken + len(sequence.tokens) < self._context.kv_tokens

    def _attach(self, sequence: Sequence) -> None:
        """Begin with what others have computed, or wait for what they are about to."""
        holder = sequence.holder
        assert holder is not None
        sequence.awaits, holder.stalled = None, False
        # Where every token's logits are wanted, nothing can be taken over; else the last token is
        # computed anew.
        most = 0 if sequence.scores else len(sequence.tokens) - 1
        match = self._cells.match(holder, most) if most else None
        if match and match.coming >= match.ready + WORTH_WAITING:
            sequence.awaits, holder.stalled = match, True
            return
        if not match or not match.ready or not self._cells.worth(match.holder, match.ready):
            self._cells.seat(holder)
            return
        self._cells.share(match.holder, holder, match.ready)
        sequence.shared = match.ready
        if sequence.index == 0 and not sequence.generated:
            sequence.generation.cached = match.ready

    def _retire(self, sequence: Sequence) -> None:
        sequence.close()
        sequence.generation.sequences.remove(sequence)
        if self._drafter:
            self._drafter.drop(sequence)
        if sequence.holder is None:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        self._cells.keep(sequence.holder)
        sequence.holder = None

    def _make_room(self) -> bool:
        """Free KV cells: first what nobody runs, then the youngest running sequence."""
        if self._cells.make_room():
            return True
        if len(self._running) < 2:
            return False
        youngest = self._running.pop()
        assert youngest.holder is not None
        self._cells.drop(youngest.holder)
        youngest.holder, youngest.awaits, youngest.shared = None, None, 0
        self._waiting.appendleft(youngest)  # its tokens are kept and computed again later
        return True

    # ---- one step -------------------------------------------------------------------------------
    def _compute(self) -> list[_Turn]:
        """Decode a batch; what each sequence in it has coming."""
        while self._running:
            self._catch_up()
            began = monotonic()
            done = [(s, s.holder.done) for s in self._running if s.holder]
            turns, prompt_tokens = self._build()
            computed = self._context.decode()
            for id_, at in self._bridges:
                self._context.forget(id_, at)
            if computed:
                self._note_speed(prompt_tokens, monotonic() - began)
                for turn in turns:
                    holder = turn.sequence.holder
                    if holder and holder.done == holder.snapshot_at > 0:
                        holder.snapshot_at = 0
                        self._cells.snapshot(holder)
                return turns
            for sequence, before in done:
                if sequence.holder:
                    sequence.holder.done = before
            if not self._make_room():
                raise RuntimeError("one sequence does not fit into the KV cache")
        return []

    def _catch_up(self) -> None:
        """Let those go on whose beginning is computed now, or will not be by whom they thought."""
        for sequence in self._running:
            awaited = sequence.awaits
            if awaited and (not awaited.holder.running or awaited.holder.done >= awaited.coming):
                self._attach(sequence)

    def _note_speed(self, tokens: int, seconds: float) -> None:
        if tokens >= SMALLEST_CHUNK:
            speed = tokens / max(seconds, 1e-6)
            self._speed = speed if not self._speed else (self._speed * 3 + speed) / 4

    def _build(self) -> tuple[list[_Turn], int]:
        group = self._group()
        self._context.begin(self._last_adapters)
        speaking = [s for s in group if s.left == 1 and not s.scores]
        reading = [s for s in group if s.left > 1 or s.scores]
        if not reading:
            self._burst_at = monotonic()
        if speaking and reading and self._soon_read(reading, speaking):
            speaking = []
        else:
            self._spoke_at = monotonic()
        drafts = self._drafts(speaking)
        room = self._context.batch_size - sum(1 + len(draft) for draft in drafts)
        aim = CHUNK_S if speaking else LONGEST_S
        chunk = int(self._speed * aim) if self._speed else FIRST_CHUNK
        portions = self._portions(reading, min(room, max(SMALLEST_CHUNK, chunk)))
        # In the order of their ids: llama.cpp computes those together that follow each other.
        parts: list[tuple[int, Callable[[], _Turn | None]]] = [
            *((s.place, partial(self._speak, s, d)) for s, d in zip(speaking, drafts, strict=True)),
            *((s.place, partial(self._read, s, take)) for s, take in portions),
        ]
        ids = sorted(id_ for id_, _ in parts)
        self._bridges = self._cells.bridges(ids)
        parts += [(id_, partial(self._bridge, id_, at)) for id_, at in self._bridges]
        turns = [part() for _, part in sorted(parts, key=itemgetter(0))]
        return [turn for turn in turns if turn], sum(take for _, take in portions)

    def _soon_read(self, reading: list[Sequence], speaking: list[Sequence]) -> bool:
        """Whether all prompts can be read before a running stream would be missed.

        First tokens come soonest when nothing else is computed until then. Who spoke before these
        prompts came is missed after LONGEST_S; who came with them waits for them all.
        """
        work = sum(sequence.left for sequence in reading)
        now, takes = monotonic(), work / max(self._speed, 1.0)
        first = min(sequence.generation.first_at for sequence in speaking)
        if first < self._burst_at:
            return now - self._spoke_at < LONGEST_S and takes < LONGEST_S
        return now - first + takes < BURST_S

    def _group(self) -> list[Sequence]:
        """Who can be computed together: those with the same adapters, each kind in its turn."""
        ready = [s for s in self._running if s.awaits is None]
        kinds = list(dict.fromkeys(s.generation.adapters for s in ready))
        if self._last_adapters in kinds:
            self._last_adapters = kinds[(kinds.index(self._last_adapters) + 1) % len(kinds)]
        else:
            self._last_adapters = kinds[0]
        return [s for s in ready if s.generation.adapters == self._last_adapters]

    def _drafts(self, sequences: list[Sequence]) -> list[list[int]]:
        """What may follow each one's last token, where somebody guesses."""
        drafts: list[list[int]] = [[] for _ in sequences]
        if self._drafter and self._cuttable and sequences:
            drafts = self._drafter.propose(sequences, self._draft_tokens)
        pairs = zip(sequences, drafts, strict=True)
        return [draft[: max(0, sequence.room - 1)] for sequence, draft in pairs]

    def _speak(self, sequence: Sequence, draft: list[int]) -> _Turn:
        """Its last token and the guesses behind that."""
        holder = sequence.holder
        assert holder is not None
        sequence.draft = draft
        rows = 1 + len(draft)
        last = self._context.add(holder.id, holder.done, [sequence.tokens[-1], *draft], logits=rows)
        holder.done += 1
        return _Turn(sequence, last - len(draft), rows)

    def _bridge(self, id_: int, at: int) -> None:
        self._context.add(id_, at, [0], logits=0)

    def _portions(self, reading: list[Sequence], budget: int) -> list[tuple[Sequence, int]]:
        """Whose prompts go on, and how far: nobody starves, and a short question does not wait for
        a long text.
        """
        if not reading:
            return []
        least = sorted(reading[1:], key=lambda s: s.left)
        if not self._context.unified:
            return self._one_portion(reading[0], least, budget)
        # Half of the budget is for the oldest, the rest for who needs least.
        takes: list[tuple[Sequence, int]] = []
        rows = SCORED_ROWS
        for sequence in [*reading[:1], *least]:
            first = not takes and len(reading) > 1
            share = max(budget // 2, min(budget, SMALLEST_CHUNK)) if first else budget
            take = self._portion(sequence, share, rows)
            if sequence.scores:
                rows -= take
            if take > 0:
                takes.append((sequence, take))
                budget -= take
        return takes

    def _one_portion(
        self, oldest: Sequence, others: list[Sequence], budget: int
    ) -> list[tuple[Sequence, int]]:
        """The oldest and who needs least take turns. More of them in a batch would be cut into
        passes of equal length, each over all weights.
        """
        turn = oldest
        if others and others[0].left < oldest.left and self._last_read is oldest:
            turn = others[0]
        self._last_read = turn
        return [(turn, self._portion(turn, budget, SCORED_ROWS))]

    def _portion(self, sequence: Sequence, budget: int, rows: int) -> int:
        holder = sequence.holder
        assert holder is not None
        take = min(sequence.left, budget)
        if holder.snapshot_at > holder.done:
            take = min(take, holder.snapshot_at - holder.done)
        return min(take, rows) if sequence.scores else take

    def _read(self, sequence: Sequence, take: int) -> _Turn:
        holder = sequence.holder
        assert holder is not None
        last = take == sequence.left
        rows = take if sequence.scores else int(last)
        tokens = sequence.tokens[holder.done : holder.done + take]
        index = self._context.add(holder.id, holder.done, tokens, logits=rows)
        holder.done += take
        return _Turn(sequence, index - rows + 1, rows)

    def _advance(self, turn: _Turn) -> wire.StopCause | None:
        """Give a sequence its next tokens; what ends it, if that does."""
        sequence, holder, rows = turn.sequence, turn.sequence.holder, range(turn.rows)
        assert holder is not None
        if sequence.scores:
            start = holder.done - turn.rows
            for row in rows:
                sequence.score(start + row, self._context.logits(turn.first + row))
            if sequence.left:
                return None
            sequence.scores = False
            rows = rows[-1:]
        draft, sequence.draft = sequence.draft, []
        cause: wire.StopCause | None = None
        right = 0
        for row in rows:
            token = sequence.draw(self._context.logits(turn.first + row))
            cause = sequence.append(token, self._ends)
            # A guess that was right is computed already; what follows a wrong one is not.
            if cause or row >= len(draft) or draft[row] != token or sequence.left > right + 1:
                break
            right += 1
        if draft:
            generation = sequence.generation
            generation.drafted += len(draft)
            generation.accepted += right
            assert self._drafter is not None
            self._drafter.learn(sequence, len(draft), right)
            computed = holder.done + len(draft)
            holder.done += right
            if holder.done < computed and not self._context.forget(holder.id, holder.done):
                raise RuntimeError("this memory cannot be cut")
        return cause
