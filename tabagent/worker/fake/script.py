"""What the fake engine says, one token at a time.

It counts: asked with the text "5", it answers "1 2 3 4 5 "; the second choice goes one further.
Other words in the text, which is that of the last message, make it act:

    think      three tokens of reasoning first, unless thinking is off or its budget is less
    call       calls the first tool, `both` the first two; a tool that is required is called anyway
    say        counts before it calls
    accent     says "é" in two tokens
    report     says as JSON what it was asked
    cite       says how each source begins that it was given, and cites it

A format is kept to: the smallest value that its schema allows, or the grammar itself. The answer to
a tool's message quotes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from tabagent import wire
from tabagent.errors import GrammarInvalid, InvalidRequest

DEFAULT: Final = 10
FRAGMENT: Final = 4  # characters of JSON in a token
SOURCE: Final = re.compile(r'<source \w+ number="(\d+)"[^>]*>\n#*\s*(.*?)\n</source', re.DOTALL)
SENTENCE: Final = re.compile(r"[.:]\s|\n")


class Said(NamedTuple):
    """One token and what came of it."""

    token: bytes
    text: str = ""
    reasoning: str = ""
    tools: tuple[wire.ToolDelta, ...] = ()


def prompt_of(command: wire.Generate) -> str:
    """The text that holds the words. Raises InvalidRequest for tokens that are no bytes."""
    if command.messages is not None:
        return command.messages[-1]["content"] or ""
    if command.tokens is not None:
        return _bytes_of(command.tokens, "prompt").decode(errors="replace")
    return command.text or ""


def detokenise(tokens: list[int]) -> str:
    return _bytes_of(tokens, "tokens").decode(errors="replace")


def _bytes_of(tokens: list[int], param: str) -> bytes:
    if any(token > 255 for token in tokens):
        raise InvalidRequest("its vocabulary is the 256 bytes", param=param)
    return bytes(tokens)


def calls_of(command: wire.Generate) -> list[wire.Tool]:
    """The tools it will call."""
    dialogue, words = command.dialogue, prompt_of(command).split()
    if dialogue.tool_choice == "none":
        return []
    if dialogue.tool_name is not None:
        return [tool for tool in dialogue.tools if tool.name == dialogue.tool_name]
    if "both" in words and dialogue.parallel_tool_calls:
        return dialogue.tools[:2]
    wanted = dialogue.tool_choice == "required" or "call" in words or "both" in words
    return dialogue.tools[:1] if wanted else []


def check_results(messages: list[dict[str, Any]]) -> None:
    """Raise InvalidRequest for the result of a call that was never made."""
    made = {call["id"] for message in messages for call in message.get("tool_calls", ())}
    for position, message in enumerate(messages):
        if message["role"] == "tool" and message["tool_call_id"] not in made:
            pointer, detail = f"/messages/{position}/tool_call_id", "names no call"
            raise InvalidRequest(
                f"{pointer} {detail}",
                param="messages",
                errors=[{"pointer": pointer, "detail": detail}],
            )


def script(command: wire.Generate, index: int) -> Iterator[Said]:
    """Everything that choice `index` says."""
    words = prompt_of(command).split()
    calls = calls_of(command)
    number = next((int(word) for word in words if word.isdecimal()), DEFAULT) + index
    if "think" in words and command.dialogue.thinking is not False:
        for _ in range(min(3, 3 if command.thinking_budget is None else command.thinking_budget)):
            yield Said(b"hm ", reasoning="hm ")
    if not calls or "say" in words:
        yield from _answer(command, words, number)
    for position, tool in enumerate(calls):
        yield from _call(tool, position, number)


def _answer(command: wire.Generate, words: list[str], number: int) -> Iterator[Said]:
    if "report" in words:
        yield from _spoken(json.dumps(msgspec.to_builtins(command)), 1 << 20)
    elif command.format is not None:
        yield from _spoken(formatted(command.format, number), FRAGMENT)
    elif command.messages and command.messages[-1]["role"] == "tool":
        yield from _spoken(f"it is {command.messages[-1]['content']}", FRAGMENT)
    elif "cite" in words:
        yield from _spoken(_cited(prompt_of(command)), FRAGMENT)
    elif "accent" in words:
        yield Said(b"\xc3")
        yield Said(b"\xa9", "é")
    else:
        for count in range(1, number + 1):
            yield Said(f"{count} ".encode(), f"{count} ")


def _cited(prompt: str) -> str:
    found = SOURCE.finditer(prompt)
    return " ".join(f"{SENTENCE.split(one[2])[0]} [{one[1]}]." for one in found)


def _spoken(text: str, size: int) -> Iterator[Said]:
    for start in range(0, len(text), size):
        part = text[start : start + size]
        yield Said(part.encode(), part)


def _call(tool: wire.Tool, position: int, number: int) -> Iterator[Said]:
    arguments = json.dumps(_instance(tool.parameters or {"type": "object"}, number, tool.pointer))
    head = wire.ToolDelta(position, "", id=f"call_{position}", name=tool.name)
    yield Said(tool.name.encode(), tools=(head,))
    for part in _spoken(arguments, FRAGMENT):
        yield Said(part.token, tools=(wire.ToolDelta(position, part.text),))


def formatted(format_: wire.Format, number: int) -> str:
    """The text in that format. Raises GrammarInvalid for a schema that it does not know."""
    if format_.kind == "gbnf":
        return format_.grammar
    if format_.kind == "json_object" or format_.schema is True:
        return json.dumps({"count": number})
    return json.dumps(_instance(format_.schema, number, format_.pointer))


def _instance(schema: Any, number: int, pointer: str, root: Any = None) -> Any:
    root = root or schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _instance(root["$defs"][name], number, pointer, root)
    match schema.get("type"):
        case "object" | None:
            properties = schema.get("properties", {})
            return {k: _instance(v, number, pointer, root) for k, v in properties.items()}
        case "array":
            return [_instance(schema["items"], number, pointer, root)]
        case "integer" | "number":
            return number
        case "string":
            return schema.get("enum", [str(number)])[0]
        case "boolean":
            return True
        case other:
            detail = f"there is no type {other!r}"
            raise GrammarInvalid(detail, errors=[{"pointer": pointer, "detail": detail}])
