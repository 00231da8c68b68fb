r"""Regular expressions of JSON schemas, rewritten for the grammar compiler.

JSON Schema means ECMA-262 and means "somewhere in the string"; the compiler reads Rust's syntax,
in which `[[a]&&b]` and the like mean something else without a word. So a pattern is parsed here and
written anew as one that matches the whole string. Where ECMA-262, Python and Rust disagree on what
a class holds (is U+00E9 a `\w`?), what matches here matches for each of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LARGEST: Final = 2000  # characters a pattern can be spread to: `(ab){10}` is 20
DEEPEST: Final = 32
ANY: Final = "(?s:.*)"
_DOT: Final = r"[^\n\r\x{2028}\x{2029}]"
# What everybody counts in, and what somebody does. `\w` and `\d` are spelled out: the compiler
# takes their short forms to be ASCII.
_NARROW: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\x{b}\x{c}\r\x{20}"}
_WIDE: Final = {
    "d": r"\p{Decimal_Number}",
    "w": r"\p{Alphabetic}\p{M}\p{N}\p{Pc}\p{Join_Control}",
    "s": r"\p{White_Space}\x{1c}-\x{1f}\x{feff}",
}
_SIMPLE: Final = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
# As Pydantic writes decimals: not only signs and dots. Said here as: also something else.
_NOT_ONLY: Final = re.compile(r"\^\(\?!\^(\[[^\]\\^]+\])\*\$\)")


class PatternError(ValueError):
    """Says what in the pattern cannot be enforced."""


@dataclass(frozen=True, slots=True)
class _Set:
    """One character; `text` is a class in Rust's syntax."""

    text: str


@dataclass(frozen=True, slots=True)
class _Anchor:
    start: bool


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple[_Sequence, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    node: _Node
    least: int
    most: int | None


_Node = _Set | _Anchor | _Sequence | _Choice | _Repeat


def whole(pattern: str) -> list[str]:
    """Expressions that together match just the strings that `pattern` is found in.

    Each is anchored at both ends. Raises PatternError.
    """
    if found := _NOT_ONLY.match(pattern):
        return whole("^" + pattern[found.end() :]) + whole("[^" + found[1][1:])
    node = _Parser(pattern).parse()
    if _size(node) > LARGEST:
        raise PatternError(f"spreads to more than {LARGEST:,} characters; repeat less")
    return [f"^(?:{_anchored(node)})$"]


def _anchored(choice: _Choice) -> str:
    """`choice` as an expression for the whole string."""
    return "|".join(_anchored_sequence(list(option.parts)) for option in choice.options)


def _anchored_sequence(parts: list[_Node]) -> str:
    before = after = ANY
    while parts and parts[0] == _Anchor(start=True):
        before = ""
        del parts[0]
    while parts and parts[-1] == _Anchor(start=False):
        after = ""
        del parts[-1]
    if len(parts) == 1 and isinstance(parts[0], _Choice) and before and after:
        return f"(?:{_anchored(parts[0])})"  # `(^a$)|(^b$)`
    return before + "".join(map(_text, parts)) + after


def _text(node: _Node) -> str:
    match node:
        case _Set(text):
            return text
        case _Sequence(parts):
            return "".join(map(_text, parts))
        case _Choice(options):
            return f"(?:{'|'.join(map(_text, options))})"
        case _Repeat(inner, least, most):
            body = _text(inner) if isinstance(inner, _Set) else f"(?:{_text(inner)})"
            return f"{body}{{{least},{'' if most is None else most}}}"
        case _Anchor():
            raise PatternError("has ^ or $ elsewhere than at the ends of an alternative")


def _size(node: _Node) -> int:
    match node:
        case _Sequence(parts):
            return sum(map(_size, parts))
        case _Choice(options):
            return sum(map(_size, options))
        case _Repeat(inner, least, most):
            return max(_size(inner), 1) * max(least if most is None else most, 1)
        case _:
            return 1


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._at, self._depth = pattern, 0, 0

    def parse(self) -> _Choice:
        choice = self._choice()
        if self._at < len(self._pattern):
            raise PatternError("has a ) without its (")
        return choice

    def _choice(self) -> _Choice:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return _Choice(tuple(options))

    def _sequence(self) -> _Sequence:
        parts: list[_Node] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            atom = self._atom()
            parts.append(self._repeated(atom))
        return _Sequence(tuple(parts))

    def _repeated(self, atom: _Node) -> _Node:
        if self._take("*"):
            bounds: tuple[int, int | None] = (0, None)
        elif self._take("+"):
            bounds = (1, None)
        elif self._take("?"):
            bounds = (0, 1)
        elif found := re.compile(r"\{(\d{1,9})(,?)(\d{0,9})\}", re.ASCII).match(
            self._pattern, self._at
        ):
            least = int(found[1])
            most = int(found[3]) if found[3] else None if found[2] else least
            if most is not None and most < least:
                raise PatternError(f"repeats {found[0]}: the second number is the smaller one")
            bounds = (least, most)
            self._at = found.end()
        else:
            return atom
        if isinstance(atom, _Anchor):
            raise PatternError("repeats ^ or $")
        self._take("?")  # a lazy repeat finds the same strings
        if re.compile(r"[*+?]|\{\d").match(self._pattern, self._at):
            raise PatternError("repeats a repeat")
        return _Repeat(atom, *bounds)

    def _atom(self) -> _Node:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return _Set(self._class())
            case ".":
                return _Set(_DOT)
            case "^" | "$":
                return _Anchor(start=char == "^")
            case "*" | "+" | "?":
                raise PatternError(f"repeats nothing: {char}")
            case "\\":
                text, code = self._escape(wide=False)
                return _Set(f"[{text}]" if code is None else self._written(code))
            case "{" if self._pattern.startswith(",", self._at):
                raise PatternError("has {,n}, which is read in two ways; write {0,n}")
        return _Set(self._written(ord(char)))

    def _group(self) -> _Choice:
        if self._pattern.startswith("?", self._at):
            opened = re.compile(r"\?(:|P?<[A-Za-z_]\w*>)").match(self._pattern, self._at)
            if opened is None:
                raise PatternError("has a group that looks around or sets flags, (?...")
            self._at = opened.end()
        self._depth += 1
        if self._depth > DEEPEST:
            raise PatternError(f"nests deeper than {DEEPEST} groups")
        choice = self._choice()
        if not self._take(")"):
            raise PatternError("has a ( without its )")
        self._depth -= 1
        return choice

    def _class(self) -> str:
        """After `[`. Inside `[^...]` each part is taken at its widest: it is what must not be."""
        negated = self._take("^")
        parts: list[str] = []
        while not self._take("]"):
            text, code = self._member(negated)
            if code is not None and self._ranges():
                self._at += 1
                _, last = self._member(negated)
                if last is None or last < code:
                    raise PatternError("has a class with a range that runs backwards")
                text += f"-{_quoted(last)}"
            elif code is not None and not negated:
                text = self._written(code)
            parts.append(text)
        if not parts:
            raise PatternError("has an empty class")
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def _ranges(self) -> bool:
        """Whether a `-` comes that is not the last of its class."""
        return self._pattern.startswith("-", self._at) and self._pattern[self._at + 1 :][:1] != "]"

    def _member(self, negated: bool) -> tuple[str, int | None]:
        if self._at >= len(self._pattern):
            raise PatternError("has a [ without its ]")
        char = self._next()
        if char == "\\":
            return self._escape(wide=negated, in_class=True)
        return _quoted(ord(char)), ord(char)

    def _escape(self, *, wide: bool, in_class: bool = False) -> tuple[str, int | None]:
        """After a backslash: what stands in a class for it, and its code if it is one character."""
        char = self._next()
        if char.lower() in "dws":
            kind = char.lower()
            if char == kind:
                return (_WIDE if wide else _NARROW)[kind], None
            return f"[^{(_NARROW if wide else _WIDE)[kind]}]", None
        if char in "pP":
            found = re.compile(r"\{[A-Za-z_]+(=[A-Za-z_]+)?\}").match(self._pattern, self._at)
            if found is None:
                raise PatternError(f"has \\{char} without the name of a property")
            self._at = found.end()
            return f"\\{char}{found[0]}", None
        if char == "b" and in_class:
            code = 8
        elif char == "0" and not self._pattern[self._at : self._at + 1].isdigit():
            code = 0
        elif char in "tnvfr":
            code = _SIMPLE[char]
        elif char in "xuc":
            code = self._code(char)
        elif char.isalnum():
            raise PatternError(f"uses \\{char}, which cannot be enforced")
        else:
            code = ord(char)
        return _quoted(code), code

    def _code(self, kind: str) -> int:
        forms = {"x": r"([0-9A-Fa-f]{2})", "u": r"([0-9A-Fa-f]{4})", "c": r"([A-Za-z])"}
        found = re.compile(forms[kind]).match(self._pattern, self._at)
        if kind == "u" and found is None:
            found = re.compile(r"\{([0-9A-Fa-f]{1,6})\}").match(self._pattern, self._at)
        if found is None:
            raise PatternError(f"has an unfinished \\{kind}")
        self._at = found.end()
        code = ord(found[1]) % 32 if kind == "c" else int(found[1], 16)
        if 0xD800 <= code < 0xDC00:  # half a character: its other half must follow
            low = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})").match(self._pattern, self._at)
            if low is not None:
                self._at = low.end()
                return 0x10000 + (code - 0xD800) * 0x400 + (int(low[1], 16) - 0xDC00)
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise PatternError(f"names U+{code:04X}, which is no character")
        return code

    def _written(self, code: int) -> str:
        if (code < 32 and code not in b"\b\t\n\f\r") or code == 127:
            raise PatternError("demands a control character that is never written")
        return _quoted(code)

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise PatternError("ends in a backslash")
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, char: str) -> bool:
        taken = self._pattern.startswith(char, self._at)
        self._at += taken
        return taken


def _quoted(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"
