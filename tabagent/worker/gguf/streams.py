"""A KV cache with a part for each sequence: nobody looks at another's cells.

What is kept of ended sequences stays where it is until its place is wanted, then moves out of the
context into plain memory, from where it comes back when a prompt begins like it. What two share is
copied, bit for bit. llama.cpp computes sequences together whose ids follow each other, so those
that run are seated side by side.
"""

from __future__ import annotations

from heapq import heapify
from itertools import pairwise
from time import monotonic
from typing import Final

from tabagent.worker.gguf.cells import Cells, Holder
from tabagent.worker.gguf.context import Context, State

WORTH_KEEPING: Final = 32  # tokens
COPY_GAIN: Final = 32  # tokens are copied so many times faster than computed, at the least
NOTHING: Final[tuple[int, int, State | None]] = (-1, 0, None)  # whose, how much of it, the copy
LONGEST_BRIDGE: Final = 2  # tokens computed in vain cost less than another pass over the weights


class Streams(Cells):
    """About `budget` bytes are kept of sequences that have no place in the context."""

    def __init__(self, context: Context, *, budget: int) -> None:
        super().__init__(context, cuttable=True)
        self._budget = budget
        self._copied = NOTHING

    def seat(self, holder: Holder) -> None:
        place = self._place()
        for kept in self.kept:
            if kept.id == place:
                self._park(kept)
        self._free.remove(place)
        heapify(self._free)
        holder.id = place

    def share(self, source: Holder, target: Holder, length: int) -> None:
        source.used_at = monotonic()
        place = source.id
        kept = source.done - length >= WORTH_KEEPING and (
            place < 0 or self._context.size_of(place) <= self._budget
        )
        spare = not source.running and not kept
        there = place >= 0 and not source.running and self._suits(place)
        if there and (spare or self._place() not in self._free):
            # It goes on where the other ended, which moves out if there is more to it.
            if not spare:
                source.state = self._context.take_out(place)
            target.id, source.id, state = place, -1, None
        else:
            state = source.state if source.state is not None else self._copy_of(source, length)
        if spare:
            self.drop(source)
        if state is not None:
            self.seat(target)
            self._context.put_back(target.id, state)
        self._context.forget(target.id, length)
        target.done = length
        self._trim()

    def _copy_of(self, source: Holder, length: int) -> State:
        """What is computed of a sequence; taken out once for all who begin like it together."""
        key, done, state = self._copied
        if state is None or key != source.key or done < length:
            state = self._context.take_out(source.id)
            self._copied = source.key, source.done, state
        return state

    def keep(self, holder: Holder) -> None:
        self._copied = NOTHING
        super().keep(holder)

    def drop(self, holder: Holder) -> None:
        self._copied = NOTHING
        super().drop(holder)

    def worth(self, source: Holder, length: int) -> bool:
        return length * COPY_GAIN >= source.done

    def recall(self, holder: Holder) -> None:
        state, holder.state = holder.state, None
        if state is not None:
            self.seat(holder)
            self._context.put_back(holder.id, state)

    def make_room(self) -> bool:
        return False  # what is kept takes no room from who runs

    def bridges(self, ids: list[int]) -> list[tuple[int, int]]:
        done = {holder.id: holder.done for holder in self._holders.values()}
        room = self._context.stream_tokens
        return [
            (id_, done.get(id_, 0))
            for before, after in pairwise(ids)
            if after - before <= 1 + LONGEST_BRIDGE
            for id_ in range(before + 1, after)
            if done.get(id_, 0) < room
        ]

    def _suits(self, place: int) -> bool:
        """Whether a sequence there would be computed together with those that run."""
        running = self._running()
        return not running or min(running) - 1 <= place <= max(running) + 1

    def _place(self) -> int:
        """Beside those that run; an empty place rather than one where something is kept."""
        running = self._running()
        free = [id_ for id_ in self._free if self._suits(id_)]
        if free:
            return min(free)
        kept = [holder for holder in self.kept if holder.id >= 0]
        near = [holder for holder in kept if self._suits(holder.id)]
        if near:
            return near[0].id
        assert not running or self._free or kept
        return self._free[0] if self._free else kept[0].id

    def _running(self) -> list[int]:
        return [h.id for h in self._holders.values() if h.running and h.id >= 0]

    def _park(self, holder: Holder) -> None:
        """Take a kept sequence out of the context."""
        if holder.done < WORTH_KEEPING or self._context.size_of(holder.id) > self._budget:
            self.drop(holder)
            return
        holder.state = self._context.take_out(holder.id)
        self._vacate(holder)
        self._trim()

    def _trim(self) -> None:
        parked = [(kept, kept.state.nbytes) for kept in self.kept if kept.state is not None]
        total = sum(size for _, size in parked)
        for oldest, size in parked:
            if total <= self._budget:
                return
            self.drop(oldest)
            total -= size
