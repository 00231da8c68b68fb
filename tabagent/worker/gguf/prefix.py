"""Which sequences begin alike: a radix tree over their tokens.

An edge is a stretch of some sequence's token list, which is shared, never copied. Lists may grow at
their end while they are in the tree; it takes notice when it is next asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Node:
    """Leads from its parent over `tokens[start:end]`, on the path of all `owners`."""

    parent: _Node | None
    tokens: list[int]
    start: int
    end: int
    owners: set[int] = field(default_factory=set)
    children: dict[int, _Node] = field(default_factory=dict)  # by the first token on the way there


class PrefixTree:
    """Finds the longest common beginnings; costs the length of what is looked up."""

    def __init__(self) -> None:
        self._root = _Node(None, [], 0, 0)
        self._lists: dict[int, list[int]] = {}
        self._leaves: dict[int, _Node] = {}

    def __len__(self) -> int:
        return len(self._lists)

    @property
    def size(self) -> int:
        """Tokens in the tree, each beginning that several share counted once."""
        total, rest = 0, [self._root]
        while rest:
            node = rest.pop()
            total += node.end - node.start
            rest += node.children.values()
        return total

    def insert(self, key: int, tokens: list[int]) -> None:
        """Add a list, which may grow at its end from now on and change in no other way."""
        self._lists[key] = tokens
        self._leaves[key] = self._root
        self._root.owners.add(key)
        self._extend(key)

    def remove(self, key: int) -> None:
        del self._lists[key]
        node: _Node | None = self._leaves.pop(key)
        while node is not None:
            node.owners.discard(key)
            parent = node.parent
            if parent is not None:
                if not node.owners:
                    del parent.children[node.tokens[node.start]]
                self._join(node if node.owners else parent)
            node = parent

    def matches(self, tokens: list[int]) -> list[tuple[int, set[int]]]:
        """How much of `tokens` others begin with: (tokens in common, keys), shortest first.

        The sets are the tree's own: look, do not touch.
        """
        for key in self._lists:
            self._extend(key)
        found: list[tuple[int, set[int]]] = []
        node, at = self._root, 0
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                break
            length = child.end - child.start
            same = common(tokens, at, child.tokens, child.start, min(length, len(tokens) - at))
            at += same
            found.append((at, child.owners))
            if same < length:
                break
            node = child
        return found

    def _extend(self, key: int) -> None:
        """Follow a list that has grown."""
        tokens, node = self._lists[key], self._leaves[key]
        at, end = node.end, len(tokens)
        if at == end:
            return
        if node.tokens is tokens and not node.children and len(node.owners) == 1:
            node.end = end
            return
        while at < end:
            child = node.children.get(tokens[at])
            if child is None:
                child = node.children[tokens[at]] = _Node(node, tokens, at, end)
            else:
                length = child.end - child.start
                same = common(tokens, at, child.tokens, child.start, min(length, end - at))
                if same < length:
                    child = _split(child, child.start + same)
            child.owners.add(key)
            node, at = child, child.end
        self._leaves[key] = node

    def _join(self, node: _Node) -> None:
        """Undo a split that nobody needs any more: as many would stay as there ever were."""
        if node.parent is None or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if len(child.owners) != len(node.owners):
            return
        node.tokens, node.end, node.children = child.tokens, child.end, child.children
        for grandchild in node.children.values():
            grandchild.parent = node
        for key in node.owners:
            if self._leaves.get(key) is child:
                self._leaves[key] = node


def _split(node: _Node, at: int) -> _Node:
    """Cut the way to `node` at position `at`; returns the new node there."""
    upper = _Node(node.parent, node.tokens, node.start, at, set(node.owners))
    assert node.parent is not None
    node.parent.children[node.tokens[node.start]] = upper
    upper.children[node.tokens[at]] = node
    node.parent, node.start = upper, at
    return upper


def common(a: list[int], i: int, b: list[int], j: int, most: int) -> int:
    """How many tokens `a` from `i` on and `b` from `j` on have in common, at most `most`."""
    if a[i : i + most] == b[j : j + most]:
        return most
    low, high = 0, most  # the first `low` agree, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        if a[i + low : i + middle] == b[j + low : j + middle]:
            low = middle
        else:
            high = middle
    return low
