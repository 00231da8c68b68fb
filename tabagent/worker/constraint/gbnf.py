"""llama.cpp's GBNF, read into rules and written as Lark for the grammar compiler.

GBNF speaks of characters; Lark has a lexer in front that takes the longest match, in which
`[a-z]+ "end"` never ends. So every character becomes a lexeme of its own and the rules above them
decide, as they do in llama.cpp. Syntax and limits are those of its `grammars/README.md`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, NoReturn

from tabagent.errors import GrammarInvalid

LARGEST: Final = 64 * 1024  # bytes
DEEPEST: Final = 32  # groups
MOST_RULES: Final = 1000
MOST: Final = 2000  # repeats, those of repeats multiplied
_SPACE: Final = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES: Final = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME: Final = re.compile(r"[A-Za-z0-9-]+")
_COUNTS: Final = re.compile(r"\{\s*([0-9]{1,9})\s*(?:(,)\s*([0-9]{0,9})\s*)?\}")
_TOKEN: Final = re.compile(r"(!?)<(\[[0-9]{1,9}\]|[^<>\s\[\]][^<>\s]*)>")
_HEX: Final = {"x": 2, "u": 4, "U": 8}
_PLAIN: Final = {"n": 10, "r": 13, "t": 9}


@dataclass(frozen=True, slots=True)
class Terminal:
    """One character or one token, in Lark."""

    lark: str


@dataclass(frozen=True, slots=True)
class Reference:
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: Item
    least: int
    most: int | None


Item = Terminal | Reference | Choice | Repeat


@dataclass(frozen=True, slots=True)
class Rule:
    line: int
    body: Choice


def parse(text: str) -> dict[str, Rule]:
    """The rules by their names. Raises GrammarInvalid, which names the line."""
    if len(text.encode(errors="replace")) > LARGEST:
        raise GrammarInvalid(f"the grammar has more than {LARGEST:,} bytes")
    return _Parser(text).rules()


def refuse(line: int, what: str) -> NoReturn:
    raise GrammarInvalid(f"line {line}: {what}")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._breaks = [found.start() for found in re.finditer("\n", text)]

    def rules(self) -> dict[str, Rule]:
        rules: dict[str, Rule] = {}
        self._skip(lines=True)
        while self._at < len(self._text):
            line = self._line()
            name = self._name("a rule, `name ::= ...`, should begin here")
            self._skip()
            if not self._take("::="):
                refuse(self._line(), f"::= should follow the name {name}")
            if name in rules:
                refuse(line, f"{name} is defined twice; line {rules[name].line} is the first")
            if len(rules) == MOST_RULES:
                refuse(line, f"there are more than {MOST_RULES:,} rules")
            self._skip(lines=True)
            rules[name] = Rule(line, self._choice())
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                refuse(self._line(), f"cannot read {self._ahead()}")
            self._skip(lines=True)
        return rules

    def _choice(self) -> Choice:
        options = [self._sequence()]
        while self._take("|"):
            self._skip(lines=True)
            options.append(self._sequence())
        return Choice(tuple(options))

    def _sequence(self) -> tuple[Item, ...]:
        items: list[Item] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)\r\n":
            items += self._repeated(self._items())
            self._skip(lines=self._depth > 0)
        return tuple(items)

    def _items(self) -> list[Item]:
        """What may be repeated: mostly one item; of a string every character is one."""
        if self._take('"'):
            return self._string()
        if self._take("["):
            return [Terminal(self._class())]
        if self._take("."):
            return [Terminal("/(?s:.)/")]
        if self._take("("):
            return [self._group()]
        if found := _TOKEN.match(self._text, self._at):
            self._at = found.end()
            if found[1] and not found[2].startswith("["):
                refuse(self._line(), "a token that must not be is written by number, !<[id]>")
            return [Terminal(f"<{found[2].replace('[', '[^') if found[1] else found[2]}>")]
        if self._text[self._at] in "*+?{":
            refuse(self._line(), f"{self._text[self._at]} has nothing before it to repeat")
        line = self._line()
        return [Reference(self._name(f"cannot read {self._ahead()}"), line)]

    def _group(self) -> Choice:
        line = self._line()
        self._depth += 1
        if self._depth > DEEPEST:
            refuse(line, f"groups are nested deeper than {DEEPEST}")
        self._skip(lines=True)
        choice = self._choice()
        if not self._take(")"):
            refuse(line, "the ( has no )")
        self._depth -= 1
        return choice

    def _repeated(self, items: list[Item]) -> list[Item]:
        while True:
            self._skip(lines=self._depth > 0)
            line = self._line()
            if self._take("*"):
                least, most = 0, None
            elif self._take("+"):
                least, most = 1, None
            elif self._take("?"):
                least, most = 0, 1
            elif found := _COUNTS.match(self._text, self._at):
                least = int(found[1])
                most = int(found[3]) if found[3] else None if found[2] else least
                self._at = found.end()
            else:
                return items
            if most is not None and most < least:
                refuse(line, f"{{{least},{most}}} ends before it begins")
            item = items[0] if len(items) == 1 else Choice((tuple(items),))
            repeat = _joined(Repeat(item, least, most))
            if _times(repeat) > MOST:
                refuse(line, f"this repeats more than {MOST:,} times")
            items = [repeat]

    def _string(self) -> list[Item]:
        line = self._line()
        codes: list[int] = []
        while not self._take('"'):
            codes.append(self._character(line, "the string has no end"))
        return [Terminal(f"/{quoted(code)}/") for code in codes]

    def _class(self) -> str:
        line = self._line()
        negated = self._take("^")
        parts: list[str] = []
        while not self._take("]"):
            first = self._character(line, "the [ has no ]")
            part = quoted(first)
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._character(line, "the [ has no ]")
                if last < first:
                    refuse(line, "a range of characters runs backwards")
                part += f"-{quoted(last)}"
            parts.append(part)
        if not parts:
            refuse(line, "the class of characters is empty")
        return f"/[{'^' if negated else ''}{''.join(parts)}]/"

    def _character(self, line: int, unfinished: str) -> int:
        if self._at >= len(self._text):
            refuse(line, unfinished)
        char = self._text[self._at]
        self._at += 1
        if char != "\\":
            return ord(char)
        kind = self._text[self._at : self._at + 1]
        self._at += 1
        if kind and kind in '"\\[]-':
            return ord(kind)
        if kind in _PLAIN:
            return _PLAIN[kind]
        digits = self._text[self._at : self._at + _HEX.get(kind, 0)]
        if kind not in _HEX or not re.fullmatch(f"[0-9A-Fa-f]{{{_HEX[kind]}}}", digits):
            refuse(line, f"\\{kind}{digits} is no escape")
        self._at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            refuse(line, f"\\{kind}{digits} is no character")
        return code

    def _name(self, otherwise: str) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            refuse(self._line(), otherwise)
        self._at = found.end()
        return found[0]

    def _skip(self, *, lines: bool = False) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, text: str) -> bool:
        taken = self._text.startswith(text, self._at)
        self._at += len(text) if taken else 0
        return taken

    def _line(self) -> int:
        return bisect_left(self._breaks, self._at) + 1

    def _ahead(self) -> str:
        rest = self._text[self._at : self._at + 20].split("\n")[0]
        return repr(rest) if rest else "the end of the grammar"


def quoted(code: int) -> str:
    """A character in a regular expression of Lark's."""
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"


def _joined(repeat: Repeat) -> Repeat:
    """Repeats of repeats as one where that says the same; `(a*)*` has endless ways to say `aa`."""
    inner = repeat.item
    while isinstance(inner, Choice) and len(inner.options) == 1 and len(inner.options[0]) == 1:
        inner = inner.options[0][0]
    if not isinstance(inner, Repeat) or inner.least > 1 or repeat.most == 0:
        return repeat
    most = None
    if inner.most is not None and repeat.most is not None:
        most = inner.most * repeat.most
    return Repeat(inner.item, repeat.least if inner.least else 0, most)


def _times(item: Item) -> int:
    """How many copies of its innermost parts a repeat makes."""
    match item:
        case Repeat(inner, least, most):
            return max(least if most is None else most, 1) * _times(inner)
        case Choice(options):
            return max((_times(part) for option in options for part in option), default=1)
        case _:
            return 1
