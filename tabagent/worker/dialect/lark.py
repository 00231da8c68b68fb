"""Writes grammars in llguidance's variant of Lark (its docs/syntax.md).

Every name begins with `dialect` so that it meets none of an answer's own rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

TEXT: Final = "DIALECT_TEXT"  # anything
GAP: Final = "DIALECT_GAP"  # a little white space
SPACE: Final = "[ \\t\\r\\n]"

JsonRule = Callable[[Any, str], str]
"""The body of a Lark rule for JSON that is valid against a schema, which is at a JSON pointer."""


def json_rule(schema: Any, pointer: str) -> str:
    """Leaves the schema as it is. Blanks are bounded: a model could write them for ever."""
    guided = {**schema, "x-guidance": {"whitespace_pattern": r" |\r?\n[ \t]{0,40}"}}
    return f"%json {json.dumps(guided)}"


class Lark:
    """A grammar that is being written. `specials` are texts which are one control token each.

    A control token is no text to llguidance: it is named by its id, and no regex matches it.
    """

    def __init__(self, specials: Mapping[str, int], json_rule: JsonRule) -> None:
        self._specials = specials
        self._json_rule = json_rule
        spelled = "|".join(re.escape(s) for s in sorted(specials, key=len, reverse=True))
        self._split = re.compile(f"({spelled})" if spelled else "(?!)")
        self._rules = {TEXT: "/(?s:.*)/", GAP: f"/{SPACE}{{1,8}}/"}

    def rule(self, name: str, body: str, options: str = "") -> str:
        """Define `name`, which is returned."""
        self._rules[f"{name}{options}"] = body
        return name

    def source(self, start: str, further: str = "") -> str:
        """The whole grammar; `further` is Lark that it refers to."""
        rules = "\n".join(f"{name}: {body}" for name, body in self._rules.items())
        return f"%llguidance {{}}\nstart: {start}\n{rules}\n{further}\n"

    def literal(self, text: str) -> str:
        """An expression for exactly `text`; "" for none."""
        return " ".join(
            f"<[{self._specials[part]}]>" if part in self._specials else quote(part)
            for part in self._split.split(text)
            if part
        )

    def spaced(self, name: str, text: str) -> str:
        """An expression for `text` with a little white space before it.

        Both are one terminal: as two, they would be lost to a longer one that begins with space.
        """
        before, special, after = self.parted(text)
        if not before:
            return join(f"{GAP}?", self.literal(text))
        first = self.rule(name, f"/{SPACE}{{0,8}}{plain(before)}/")
        return join(first, self.literal(special + after))

    def until(self, name: str, text: str, body: str = TEXT) -> str:
        """A rule for as little of the terminal `body` as there is before `text`, and `text`."""
        before, special, after = self.parted(text)
        if special:
            return self.rule(name, join(body, self.literal(special + after)))
        return self.rule(name, f"{body} {quote(before)}", "[lazy]")

    def parted(self, text: str) -> tuple[str, str, str]:
        """`text` before its first control token, that token, and what follows it."""
        found = self._split.search(text)
        if found is None:
            return text, "", ""
        return text[: found.start()], found[0], text[found.end() :]

    def is_special(self, text: str) -> bool:
        return text in self._specials

    def json(self, name: str, schema: Any, pointer: str) -> str:
        """A rule for JSON that is valid against `schema`."""
        return self.rule(name, self._json_rule(schema, pointer))

    def check(self, schema: Any, pointer: str) -> None:
        """Refuse what `json` would refuse."""
        self._json_rule(schema, pointer)


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def join(*parts: str) -> str:
    """One after the other."""
    return " ".join(part for part in parts if part)


def either(*parts: str) -> str:
    """One of them."""
    return f"({' | '.join(parts)})"


def plain(text: str) -> str:
    """A regex for exactly `text`; angle brackets stay, which mean something when escaped."""
    escaped = re.sub(r"[!-/:;=?@\[-^`{-~]", lambda found: "\\" + found[0], text)
    return escaped.replace("\n", r"\n")
