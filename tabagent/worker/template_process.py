"""A child that renders chat templates and nothing else: `python -m tabagent.worker.template_process`.

A model's Jinja template is a stranger's program. The sandbox keeps it from our objects, this
process keeps it from our memory and our time: it is small, its address space is limited, and the
worker kills it when an answer takes too long. Frames of JSON in, frames of JSON out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tabagent.frames import FrameDecoder, encode
from tabagent.worker.confinement import budget, run

MEMORY: Final = 512 * 2**20  # bytes of address space
LARGEST: Final = 8 * 2**20  # characters of a rendered prompt


class _Generation(Extension):
    """`{% generation %}` marks the answers for training; here it only encloses them."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    """As Hugging Face's templates expect it: trimmed blocks, break and continue, `tojson` as is."""

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def render(template: Template, variables: dict[str, Any]) -> dict[str, str]:
    """{"text": ...}, or {"error": what went wrong in the template's own words}."""
    parts: list[str] = []
    size = 0
    try:
        for part in template.generate(variables):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                return {"error": f"the prompt grew over {LARGEST} characters"}
        text = "".join(parts)
        text.encode()  # an escape in a template can make half a character
    except MemoryError:
        return {"error": "the template used too much memory"}
    except Exception as error:  # a template can raise anything; all of it is the template's fault
        return {"error": _said(error)}
    return {"text": text}


def _said(error: Exception) -> str:
    return f"{error}"[:500].encode(errors="replace").decode() or type(error).__name__


def main(read: Callable[[int], bytes], write: Callable[[bytes], Any]) -> None:
    """Answer until the input ends."""
    compiled = lru_cache(maxsize=8)(_Environment().from_string)
    decoder = FrameDecoder()
    write(encode(b"{}"))  # ready: from now on the clock of a request is its own
    while data := read(1 << 16):
        for body in decoder.feed(data):
            request = json.loads(body)
            budget()
            try:
                answer = render(compiled(request["template"]), request["variables"])
            except Exception as error:  # Python's compiler has its own limits and errors
                answer = {"error": f"the template does not compile: {_said(error)}"}
            said = json.dumps(answer, ensure_ascii=False).encode()
            budget(0)
            write(encode(said))


if __name__ == "__main__":
    run(main, MEMORY)
