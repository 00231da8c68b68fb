"""The harmony format of gpt-oss: a turn is messages, and each message's header says what it is.

`<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...`; a call
is a message `to=functions.NAME`, on the channel commentary, and ends the turn. The format is
described in OpenAI's cookbook ("OpenAI harmony response format").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from tabagent import wire
from tabagent.worker.dialect.arguments import pass_json
from tabagent.worker.dialect.calls import new_id
from tabagent.worker.dialect.grammar import Wanted, schema_of
from tabagent.worker.dialect.lark import TEXT, Lark, either, join
from tabagent.worker.dialect.parser import ReadingParser
from tabagent.worker.dialect.reader import LONGEST_WORD, Wait, overlap

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
NEXT: Final = f"<|end|>{START}assistant"
FINAL: Final = f"{CHANNEL}final{MESSAGE}"
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>", START, CHANNEL)
ANALYSIS: Final = f"{CHANNEL}analysis{MESSAGE}"
PREAMBLE: Final = f"{CHANNEL}commentary{MESSAGE}"
CALLS: Final = (
    CHANNEL + "commentary to=functions.{} <|constrain|>json" + MESSAGE,
    " to=functions.{}" + CHANNEL + "commentary json" + MESSAGE,
)
CONTROL: Final = frozenset({*ENDS, MESSAGE, "<|constrain|>"})

_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_TO: Final = re.compile(r"to=functions\.([^\s<]+)")

Kind = Literal["content", "reasoning", "call"]


def grammar(wanted: Wanted, lark: Lark) -> str:
    """Lark source: any analysis, then a call, or a final message with free text or the answer."""
    analysis = join(lark.literal(ANALYSIS), lark.until("dialect_analysis", NEXT))
    preamble = join(lark.literal(PREAMBLE), lark.until("dialect_preamble", NEXT))
    calls = []
    for number, tool in enumerate(wanted.tools):
        arguments = lark.json(f"dialect_arguments_{number}", schema_of(tool), tool.pointer)
        heads = (lark.literal(form.format(tool.name)) for form in CALLS)
        calls.append(join(either(*heads), arguments))
    if wanted.required:
        return lark.source(join(f"({analysis})*", either(*calls)))
    content = TEXT if wanted.answer is None else "answer"
    final = join(lark.literal(FINAL), content)
    before = f"({either(analysis, preamble)})*" if calls else f"({analysis})*"
    return lark.source(join(before, either(final, *calls)), wanted.answer or "")


class HarmonyParser(ReadingParser):
    """Takes messages apart by their headers. What has no header is content."""

    def __init__(self, tools: Mapping[str, Any], prompt: str) -> None:
        super().__init__()
        self._tools = tools
        self._told = 0
        self.closing = NEXT if tools else NEXT + FINAL
        header = prompt[-LONGEST_WORD:].rpartition(START)[2]
        self._header = header.removesuffix(MESSAGE) if header.endswith(MESSAGE) else None
        self._kinds: set[Kind] = set()  # that were told

    @property
    def called(self) -> bool:
        return self._told > 0

    def _read(self) -> Wait[None]:
        reader = self._reader
        if self._header is not None:
            yield from self._read_message(self._header)
        while True:
            start = reader.at
            yield from reader.space()
            if reader.is_over:
                return
            marker = yield from reader.choose((START, CHANNEL, "to="))
            header = (yield from reader.until(MESSAGE)) if marker else None
            if header is not None:
                yield from self._read_message(header)
                continue
            reader.at = start
            if marker:  # that is no header is passed, or it would be found again
                yield from self._read_header_as_content(marker)
            yield from self._read_body("content")

    def _read_header_as_content(self, marker: str) -> Wait[None]:
        yield from self._reader.space()
        self._said.content += marker
        self._reader.at += len(marker)

    def _read_message(self, header: str) -> Wait[None]:
        channel, to = _CHANNEL.search(header), _TO.search(header)
        if to and to[1] in self._tools:
            self._said.tell(wire.ToolDelta(self._told, "", new_id(), to[1]))
            self._told += 1
            yield from self._read_arguments()
        elif channel and channel[1] == "analysis":
            yield from self._read_body("reasoning")
        else:
            if to or not channel:  # to nobody who is here: shown as it is
                self._said.content += header + MESSAGE
            yield from self._read_body("content")

    def _read_arguments(self) -> Wait[None]:
        """JSON to its own end: what ends a message may stand in its strings too."""
        reader = self._reader
        yield from reader.space()
        if (yield from reader.choose(("{",))):
            yield from pass_json(reader, self._argue)
            yield from reader.space()
        yield from self._read_body("call")

    def _argue(self, text: str) -> None:
        self._tell("call", text)
        self._reader.keep()

    def _read_body(self, kind: Kind) -> Wait[None]:
        """Tell what comes before the next end of a message, which is passed over."""
        reader = self._reader
        reader.keep()
        self.reasoning_open = kind == "reasoning"
        if kind in self._kinds and kind != "call":
            self._tell(kind, "\n\n")
        self._kinds.add(kind)
        while True:
            found, marker = min(
                ((at, marker) for marker in ENDS if (at := reader.find(marker)) >= 0),
                default=(-1, ""),
            )
            if found >= 0:
                self._tell(kind, self._pass_to(found))
                reader.at += 0 if marker in (START, CHANNEL) else len(marker)
                break
            stop = reader.end if reader.ended else reader.end - overlap(reader.rest(), ENDS)
            self._tell(kind, self._pass_to(stop))
            if reader.ended:
                break
            yield
        reader.keep()
        self.reasoning_open = False

    def _tell(self, kind: Kind, text: str) -> None:
        if kind == "reasoning":
            self._said.reasoning += text
        elif kind == "content":
            self._said.content += text
        elif text:
            self._said.tell(wire.ToolDelta(self._told - 1, text))
