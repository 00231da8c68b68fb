"""Who owns what in the KV cache: sequences that run, and ended ones that the next may begin like.

Every sequence has an id of the context. Computed tokens are shared between ids, so a system prompt
that a hundred chats begin with is computed and kept once. What nobody runs any more is kept until
ids or cells are wanted, the least recently used goes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from tabagent.worker.gguf.context import Adapters, Context
from tabagent.worker.gguf.prefix import PrefixTree


@dataclass(eq=False, slots=True)
class Holder:
    """A sequence of the context: its tokens, of which the first `done` are computed."""

    id: int
    tokens: list[int]
    adapters: Adapters  # the same tokens are other numbers under another adapter
    done: int = 0
    running: bool = True
    used_at: float = 0.0
    stalled: bool = False  # it waits for another, so nobody should wait for it
    snapshot_at: int = 0  # when so many are computed, a copy will be kept


@dataclass(frozen=True, slots=True)
class Match:
    """Whose beginning fits: `ready` tokens are computed, `coming` will be once it has gone on."""

    holder: Holder
    ready: int
    coming: int


class Cells:
    """The sequences of a context. `cuttable`: whether its memory can be shared up to any token.

    About `budget` tokens are kept of what nobody runs: a step looks at every cell in use, be it
    only to find that it is another sequence's.
    """

    def __init__(self, context: Context, *, cuttable: bool, budget: int) -> None:
        self._context, self._cuttable, self._budget = context, cuttable, budget
        self._free = list(range(context.sequences))
        self._holders: dict[int, Holder] = {}
        self._trees: dict[Adapters, PrefixTree] = {}

    @property
    def kept(self) -> list[Holder]:
        """What no one runs any more, the longest unused first."""
        idle = (holder for holder in self._holders.values() if not holder.running)
        return sorted(idle, key=lambda holder: holder.used_at)

    def open(self, tokens: list[int], adapters: Adapters = ()) -> Holder:
        """A new sequence; room for it is made among what is kept."""
        if not self._free:
            self.drop(self.kept[0])
        holder = Holder(self._free.pop(), tokens, adapters)
        self._holders[holder.id] = holder
        self._tree(adapters).insert(holder.id, tokens)
        return holder

    def match(self, holder: Holder, most: int) -> Match | None:
        """Who shares most of the first `most` tokens with `holder`, which has none computed."""
        best: Match | None = None
        for length, ids in self._tree(holder.adapters).matches(holder.tokens):
            for id_ in ids:
                other = self._holders[id_]
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

    def share(self, source: Holder, target: Holder, length: int) -> None:
        """Let `target`, of which nothing is computed, begin with tokens of `source`."""
        self._context.share(source.id, target.id, length)
        target.done = length
        source.used_at = monotonic()

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
            tree.remove(holder.id)
            holder.tokens = holder.tokens[: holder.done]
            tree.insert(holder.id, holder.tokens)
        holder.running, holder.used_at = False, monotonic()
        for other in self._covered(holder):
            self.drop(other)
        self._trim()

    def _trim(self) -> None:
        for oldest in self.kept[:-1]:
            running = sum(len(h.tokens) for h in self._holders.values() if h.running)
            if sum(tree.size for tree in self._trees.values()) - running <= self._budget:
                return
            self.drop(oldest)

    def _covered(self, holder: Holder) -> list[Holder]:
        """Kept sequences of which `holder` has every token: nothing is lost with them."""
        if not self._cuttable:
            return []
        found = self._tree(holder.adapters).matches(holder.tokens)
        ids = set().union(*(ids for _, ids in found))
        others = (self._holders[id_] for id_ in ids if id_ != holder.id)
        size = holder.done
        return [
            other
            for other in others
            if not other.running
            and len(other.tokens) <= size
            and holder.tokens[: len(other.tokens)] == other.tokens
        ]

    def drop(self, holder: Holder) -> None:
        """Forget a sequence; its id is free."""
        self._context.forget(holder.id)
        holder.running, holder.done = False, 0
        self._tree(holder.adapters).remove(holder.id)
        del self._holders[holder.id]
        self._free.append(holder.id)
        if not len(self._trees[holder.adapters]):
            del self._trees[holder.adapters]

    def make_room(self) -> bool:
        """Give up the longest unused of what is kept. False when there is nothing."""
        kept = self.kept
        if kept:
            self.drop(kept[0])
        return bool(kept)

    def _tree(self, adapters: Adapters) -> PrefixTree:
        return self._trees.setdefault(adapters, PrefixTree())
