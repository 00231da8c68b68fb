"""Who owns what in the KV cache: sequences that run, and ended ones that the next may begin like.

A `Holder` is a sequence and its tokens. What many begin with is computed once; what nobody runs any
more is kept, the least recently used goes first. Where the tokens lie is up to the layout: one
memory that all share (`SharedCells`), or one for each sequence (`streams.Streams`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from time import monotonic

from tabagent.worker.gguf.context import Adapters, Context, State
from tabagent.worker.gguf.prefix import PrefixTree


@dataclass(eq=False, slots=True)
class Holder:
    """A sequence: its tokens, of which the first `done` are computed."""

    key: int
    tokens: list[int]
    adapters: Adapters  # the same tokens are other numbers under another adapter
    id: int = -1  # in the context, once it has a place there
    done: int = 0
    running: bool = True
    used_at: float = 0.0
    stalled: bool = False  # it waits for another, so nobody should wait for it
    snapshot_at: int = 0  # when so many are computed, a copy will be kept
    state: State | None = None  # what is computed, where it lies outside the context


@dataclass(frozen=True, slots=True)
class Match:
    """Whose beginning fits: `ready` tokens are computed, `coming` will be once it has gone on."""

    holder: Holder
    ready: int
    coming: int


class Cells(ABC):
    """The sequences of a context. `cuttable`: whether its memory can be shared up to any token."""

    def __init__(self, context: Context, *, cuttable: bool) -> None:
        self._context, self._cuttable = context, cuttable
        self._free = list(range(context.sequences))  # a heap: low ids first
        self._holders: dict[int, Holder] = {}
        self._trees: dict[Adapters, PrefixTree] = {}
        self._keys = count()

    @property
    def kept(self) -> list[Holder]:
        """What no one runs any more, the longest unused first."""
        idle = (holder for holder in self._holders.values() if not holder.running)
        return sorted(idle, key=lambda holder: holder.used_at)

    def open(self, tokens: list[int], adapters: Adapters = ()) -> Holder:
        """A new sequence, which others may match from now on. `seat` or `share` gives it a place."""
        holder = Holder(next(self._keys), tokens, adapters)
        self._holders[holder.key] = holder
        self._tree(adapters).insert(holder.key, tokens)
        return holder

    @abstractmethod
    def seat(self, holder: Holder) -> None:
        """Give a sequence an empty place in the context, at the cost of what is kept."""

    @abstractmethod
    def share(self, source: Holder, target: Holder, length: int) -> None:
        """Let `target`, which has no place yet, begin with the first `length` tokens of `source`."""

    @abstractmethod
    def make_room(self) -> bool:
        """Give up the longest unused of what is kept. False when that would not help."""

    @abstractmethod
    def _trim(self) -> None:
        """Let go what is kept beyond the budget."""

    def worth(self, source: Holder, length: int) -> bool:
        """Whether to share so many tokens costs less than to compute them."""
        return True

    @abstractmethod
    def recall(self, holder: Holder) -> None:
        """Give a kept sequence its place in the context back."""

    def bridges(self, ids: list[int]) -> list[tuple[int, int]]:
        """Where a batch for these ids, in order, had better compute a token in vain: (id, at)."""
        return []

    def match(self, holder: Holder, most: int) -> Match | None:
        """Who shares most of the first `most` tokens with `holder`, which has none computed."""
        best: Match | None = None
        for length, keys in self._tree(holder.adapters).matches(holder.tokens):
            for key in keys:
                other = self._holders[key]
                if other is holder:
                    continue
                ready, coming = min(length, other.done, most), min(length, most)
                if not self._cuttable:  # all of it or nothing, and of what runs only its copy
                    ready = other.done if other.done <= ready and not other.running else 0
                    coming = other.snapshot_at if other.done < other.snapshot_at <= coming else 0
                if not other.running or other.stalled or coming < ready:
                    coming = ready
                if best is None or (coming, ready) > (best.coming, best.ready):
                    best = Match(other, ready, coming)
        return best if best and best.coming else None

    def snapshot(self, source: Holder) -> None:
        """Keep a copy of what is computed of `source`, as it is now."""
        copy = self.open(source.tokens[: source.done], source.adapters)
        self.share(source, copy, source.done)
        self.keep(copy)

    def keep(self, holder: Holder) -> None:
        """A sequence has ended: what it computed may serve the next."""
        if not holder.done:
            self.drop(holder)
            return
        if len(holder.tokens) != holder.done:
            tree = self._tree(holder.adapters)
            tree.remove(holder.key)
            holder.tokens = holder.tokens[: holder.done]
            tree.insert(holder.key, holder.tokens)
        holder.running, holder.used_at = False, monotonic()
        for other in self._covered(holder):
            self.drop(other)
        self._trim()

    def _covered(self, holder: Holder) -> list[Holder]:
        """Kept sequences of which `holder` has every token: nothing is lost with them."""
        if not self._cuttable:
            return []
        found = self._tree(holder.adapters).matches(holder.tokens)
        keys = set().union(*(keys for _, keys in found))
        others = (self._holders[key] for key in keys if key != holder.key)
        size = holder.done
        return [
            other
            for other in others
            if not other.running
            and len(other.tokens) <= size
            and holder.tokens[: len(other.tokens)] == other.tokens
        ]

    def drop(self, holder: Holder) -> None:
        """Forget a sequence; its place is free."""
        self._vacate(holder)
        holder.running, holder.done, holder.state = False, 0, None
        self._tree(holder.adapters).remove(holder.key)
        del self._holders[holder.key]
        if not len(self._trees[holder.adapters]):
            del self._trees[holder.adapters]

    def _vacate(self, holder: Holder) -> None:
        if holder.id >= 0:
            self._context.forget(holder.id)
            heappush(self._free, holder.id)
            holder.id = -1

    def _tree(self, adapters: Adapters) -> PrefixTree:
        return self._trees.setdefault(adapters, PrefixTree())


class SharedCells(Cells):
    """All sequences in one memory: what they share lies there once.

    About `budget` tokens are kept of what nobody runs: a step looks at every cell in use, be it
    only to find that it is another sequence's.
    """

    def __init__(self, context: Context, *, cuttable: bool, budget: int) -> None:
        super().__init__(context, cuttable=cuttable)
        self._budget = budget

    def seat(self, holder: Holder) -> None:
        if not self._free:
            self.drop(next(kept for kept in self.kept if kept.id >= 0))
        holder.id = heappop(self._free)

    def share(self, source: Holder, target: Holder, length: int) -> None:
        source.used_at = monotonic()  # first of all, so that it does not make room for the target
        self.seat(target)
        self._context.share(source.id, target.id, length)
        target.done = length

    def recall(self, holder: Holder) -> None:
        pass  # it never left

    def make_room(self) -> bool:
        kept = self.kept
        if kept:
            self.drop(kept[0])
        return bool(kept)

    def _trim(self) -> None:
        for oldest in self.kept[:-1]:
            running = sum(len(h.tokens) for h in self._holders.values() if h.running)
            if sum(tree.size for tree in self._trees.values()) - running <= self._budget:
                return
            self.drop(oldest)
