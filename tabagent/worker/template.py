"""Chat templates, from the worker's side: render in a child, and keep people's text text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from tabagent.errors import ChatTemplateRejected, InternalError
from tabagent.frames import FrameDecoder, encode

RENDER_S: Final = 2.0
START_S: Final = 20.0
MARKS: Final = [chr(code) for code in range(0xE000, 0xE100)]  # private use: means nothing to anyone


class TemplateRenderer:
    """Renders one model's template in a child process, which is replaced when it misbehaves.

    Thread-safe. `close` ends the child.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._lock = threading.Lock()
        self._child = _Child()

    def render(self, variables: dict[str, Any]) -> str:
        """The prompt. Raises ChatTemplateRejected in the template's own words."""
        request = json.dumps({"template": self._template, "variables": variables}).encode()
        with self._lock:
            answer = self._child.ask(request)
            if answer is None:
                self._child.close()
                self._child = _Child()
                raise ChatTemplateRejected(
                    f"the template took more than {RENDER_S:g} seconds or too much memory"
                )
        if "error" in answer:
            raise ChatTemplateRejected(answer["error"])
        return answer["text"]

    def close(self) -> None:
        self._child.close()


class _Child:
    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tabagent.worker.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def ask(self, request: bytes) -> dict[str, str] | None:
        """The answer, or None when the child died or had to be killed."""
        if not self._ready:
            if self._within(START_S, self._read) is None:
                raise InternalError("the template renderer did not start")
            self._ready = True
        stdin = self._process.stdin
        assert stdin is not None

        def exchange() -> bytes | None:
            view = memoryview(encode(request))
            while view:
                view = view[stdin.write(view) or 0 :]
            return self._read()

        body = self._within(RENDER_S, exchange)
        return None if body is None else json.loads(body)

    def _within(self, seconds: float, work: Callable[[], bytes | None]) -> bytes | None:
        """Run `work`; the child is killed after `seconds`, which ends every wait on it."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            return work()
        except OSError:
            return None
        finally:
            timer.cancel()

    def _read(self) -> bytes | None:
        stdout = self._process.stdout
        assert stdout is not None
        while data := stdout.read(1 << 16):
            if bodies := self._decoder.feed(data):
                return bodies[0]
        return None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


class ControlTokenGuard:
    """Keeps what people wrote from being read as the model's control tokens.

    Where a text holds the spelling of one (`<|im_end|>`), a private-use character is put inside it
    before the template sees it. `split` takes it out again and says which stretches of the prompt
    must be tokenised as plain text.
    """

    def __init__(self, control_tokens: Iterable[str]) -> None:
        spellings = sorted((t for t in control_tokens if len(t) > 1), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def guard(self, value: Any) -> tuple[Any, str]:
        """`value` with every string in it guarded, and the mark that was used, or ""."""
        if self._pattern is None or not _any_string(value, self._pattern.search):
            return value, ""
        mark = next(m for m in MARKS if not _any_string(value, re.compile(m).search))
        pattern = self._pattern

        def guarded(text: str) -> str:
            return pattern.sub(lambda found: found[0][0] + mark + found[0][1:], text)

        return _map_strings(value, guarded), mark

    def split(self, prompt: str, mark: str) -> list[tuple[str, bool]]:
        """(text, whether control tokens may be read in it), in order."""
        if not mark or self._pattern is None:
            return [(prompt, True)]
        whole = re.compile(f".{mark}", re.DOTALL)
        parts: list[tuple[str, bool]] = []
        end = 0
        for found in whole.finditer(prompt):
            if found.start() < end:
                continue
            start = found.start()
            plain = self._pattern.match(prompt[start] + prompt[start + 2 :])
            length = len(plain[0]) + 1 if plain else 2
            parts.append((prompt[end:start], True))
            parts.append((prompt[start : start + length].replace(mark, ""), False))
            end = start + length
        parts.append((prompt[end:], True))
        return [(text, special) for text, special in parts if text]


def _any_string(value: Any, test: Callable[[str], Any]) -> bool:
    if isinstance(value, str):
        return bool(test(value))
    if isinstance(value, dict):
        return any(_any_string(v, test) for v in (*value, *value.values()))
    return isinstance(value, list) and any(_any_string(v, test) for v in value)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_map_strings(k, change): _map_strings(v, change) for k, v in value.items()}
    return [_map_strings(v, change) for v in value] if isinstance(value, list) else value
