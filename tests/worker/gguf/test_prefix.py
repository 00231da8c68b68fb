"""The radix tree, against a search that looks at everything."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tabagent.worker.gguf.prefix import PrefixTree


@pytest.mark.parametrize("seed", range(60))
def test_it_finds_what_a_search_through_all_lists_finds(seed: int) -> None:
    draw = random.Random(seed)
    tree, lists = PrefixTree(), dict[int, list[int]]()

    def some_tokens() -> list[int]:
        known = list(draw.choice(list(lists.values()))) if lists and draw.random() < 0.8 else []
        return known[: draw.randrange(len(known) + 1)] + [
            draw.randrange(3) for _ in range(draw.randrange(8))
        ]

    for key in range(150):
        match draw.choice(["add", "add", "grow", "grow", "remove", "find", "find"]):
            case "add":
                lists[key] = some_tokens()
                tree.insert(key, lists[key])
            case "grow" if lists:
                draw.choice(list(lists.values())).extend(
                    draw.randrange(3) for _ in range(draw.randrange(4))
                )
            case "remove" if lists:
                gone = draw.choice(list(lists))
                del lists[gone]
                tree.remove(gone)
            case "find":
                tokens = some_tokens()
                found = tree.matches(tokens)
                longest = max((_common(tokens, other) for other in lists.values()), default=0)
                assert (found[-1][0] if found else 0) == longest
                beginnings = {tuple(o[:n]) for o in lists.values() for n in range(1, len(o) + 1)}
                assert tree.size == len(beginnings)
                for length, keys in found:
                    begun = tokens[:length]
                    assert keys == {k for k, o in lists.items() if o[:length] == begun}
    for key in list(lists):
        tree.remove(key)
    assert len(tree) == 0
    assert tree._root.children == {}


def _common(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def test_it_does_not_grow_with_what_has_come_and_gone() -> None:
    tree = PrefixTree()
    tree.insert(0, list(range(1000)))
    for key in range(1, 500):
        tree.insert(key, [*range(key * 2), -1])
        tree.remove(key)

    def nodes(node: Any) -> int:
        return 1 + sum(nodes(child) for child in node.children.values())

    assert nodes(tree._root) == 2
