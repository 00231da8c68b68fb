"""Chat templates, from the worker's side: render in a child, and keep people's text text."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final

from tabagent.errors import ChatTemplateRejected, InvalidRequest
from tabagent.worker.confined import Confined
from tabagent.worker.confinement import COMPUTE_S

LONGEST_OPEN: Final = 64  # characters of a control token's beginning at the end of a text
MARKS: Final = [chr(code) for code in range(0xE000, 0xF900)]  # private use: means nothing to anyone


class TemplateRenderer:
    """Renders one model's template in a child process, which is replaced when it misbehaves.

    Thread-safe. `close` ends the child.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._lock = threading.Lock()
        self._child = self._start()

    def render(self, variables: dict[str, Any]) -> str:
        """The prompt. Raises ChatTemplateRejected in the template's own words."""
        message = {"template": self._template, "variables": variables}
        request = json.dumps(message, ensure_ascii=False).encode()
        with self._lock:
            if not self._child.alive:  # killed for its last request, or by someone else
                self._child.close()
                self._child = self._start()
            answer = self._child.ask(request)
        if answer is None:
            raise ChatTemplateRejected(
                f"the template took more than {COMPUTE_S:g} seconds or too much memory"
            )
        if "error" in answer:
            raise ChatTemplateRejected(answer["error"])
        text: str = answer["text"]
        return text

    def close(self) -> None:
        self._child.close()

    def _start(self) -> Confined:
        return Confined("tabagent.worker.template_process")


class ControlTokenGuard:
    """Keeps what people wrote from being read as the model's control tokens.

    Behind the first character of each spelling of one (`<|im_end|>`) in their texts a private-use
    character is put before the template sees it, also where a text ends in the beginning of one,
    for a template may put two texts together. `split` takes it out again and says which stretches
    of the prompt must be tokenised as plain text.
    """

    def __init__(self, control_tokens: Iterable[str]) -> None:
        self._spellings = frozenset(t for t in control_tokens if t)
        self._lengths = sorted({len(t) for t in self._spellings}, reverse=True)
        firsts = re.escape("".join({t[0] for t in self._spellings}))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")
        longest = min(max(self._lengths, default=1), LONGEST_OPEN + 1)
        self._beginnings = {t[:n] for t in self._spellings for n in range(1, longest) if n < len(t)}
        self._longest_open = longest - 1

    def guard(self, value: Any) -> tuple[Any, str]:
        """`value` with every string in it guarded, and the mark that was used, or ""."""
        texts = list(_strings(value))
        if not any(self._starts(text) for text in texts):
            return value, ""
        used = set().union(*texts)
        mark = next((mark for mark in MARKS if mark not in used), None)
        if mark is None:
            detail = "must not use every private-use character there is"
            raise InvalidRequest(
                f"the messages {detail}",
                param="messages",
                errors=[{"pointer": "/messages", "detail": detail}],
            )
        return _map_strings(value, lambda text: self._marked(text, mark)), mark

    def split(self, prompt: str, mark: str) -> list[tuple[str, bool]]:
        """(text, whether control tokens may be read in it), in order."""
        if not mark:
            return [(prompt, True)]
        clean = prompt.replace(mark, "")
        parts: list[tuple[str, bool]] = []
        end = 0
        for count, found in enumerate(re.finditer(mark, prompt), 1):
            start = found.start() - count  # in `clean`, of the character before the mark
            if start >= end and (plain := self._spelled(clean, start)):
                parts += [(clean[end:start], True), (plain, False)]
                end = start + len(plain)
        parts.append((clean[end:], True))
        return [(text, special) for text, special in parts if text]

    def _marked(self, text: str, mark: str) -> str:
        cuts = [0, *(start + 1 for start in self._starts(text)), len(text)]
        return mark.join(text[start:end] for start, end in pairwise(cuts))

    def _starts(self, text: str) -> list[int]:
        """Where control tokens are spelled, or begin and reach to the end; templates trim it."""
        end = len(text.rstrip())
        open_from = end - self._longest_open
        return [
            start
            for start in (found.start() for found in self._first.finditer(text))
            if self._spelled(text, start)
            or (start >= open_from and text[start:end] in self._beginnings)
        ]

    def _spelled(self, text: str, start: int) -> str:
        """The longest control token that is spelled at `start`, or ""."""
        pieces = (text[start : start + length] for length in self._lengths)
        return next((piece for piece in pieces if piece in self._spellings), "")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in (*value, *value.values()):
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_map_strings(k, change): _map_strings(v, change) for k, v in value.items()}
    return [_map_strings(v, change) for v in value] if isinstance(value, list) else value
