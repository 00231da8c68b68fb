"""The exact text of something a model writes, with places for what varies in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

MARKER: Final = re.compile(r"<[^<>\s=]+>|\[/?[A-Z_]+\]")
"""What a control token looks like: <|python_tag|>, </think>, [TOOL_CALLS]."""

_FIELD: Final = re.compile(r"\$(name|arguments|id|index|key|value)")
_PIECE: Final = re.compile(rf"{MARKER.pattern}|[\[\]]|(?:(?!{MARKER.pattern})[^\s\[\]])+")


@dataclass(frozen=True)
class Shape:
    """A text in which $name, $arguments, $id, $index, $key and $value stand for what varies."""

    text: str

    @cached_property
    def texts(self) -> list[str]:
        """What stands before, between and behind the fields: one more than there are fields."""
        return _FIELD.split(self.text)[0::2]

    @cached_property
    def fields(self) -> list[str]:
        """The names of what varies, in order."""
        return _FIELD.split(self.text)[1::2]

    def write(self, **values: str) -> str:
        """The text with `values` in their places."""
        return _FIELD.sub(lambda found: values[found[1]], self.text)


def pieces(text: str) -> tuple[str, ...]:
    """What must be read of `text`, with or without white space between.

    >>> pieces("] <|END_ACTION|><function=")
    (']', '<|END_ACTION|>', '<function=')
    """
    return tuple(_PIECE.findall(text))
