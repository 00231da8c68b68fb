"""What a chat template says that its model was made for: tools, and reasoning before the answer.

Read from the template's text, without rendering it: it is as untrusted as the file it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_OPENS: Final = re.compile("{%|{{")
_TEXT: Final = re.compile(r"'(?:[^'\\]|\\.)*(?:'|$)|\"(?:[^\"\\]|\\.)*(?:\"|$)", re.DOTALL)
_TOOLS: Final = re.compile(r"\b(?:\w*_)?tools\b")
_THOUGHTS: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>", "analysis"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
"""What opens thoughts and what closes them, in the families that are known."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """`tools`: the model is told of them in its own way; any chat model is told of them in words."""

    tools: bool = False
    reasoning: bool = False


def abilities_of(template: str | None) -> Abilities:
    if not template:
        return Abilities()
    code = _TEXT.sub("''", " ".join(_tags(template)))
    return Abilities(
        tools=_TOOLS.search(code) is not None,
        reasoning=any(opens in template and closes in template for opens, closes in _THOUGHTS),
    )


def _tags(template: str) -> Iterator[str]:
    """What stands between `{%` and `%}`, and `{{` and `}}`; in time that its length bounds."""
    place = 0
    while opens := _OPENS.search(template, place):
        place = template.find("%}" if opens[0] == "{%" else "}}", opens.end())
        if place < 0:
            return
        yield template[opens.end() : place]
