"""Messages as OpenAI's clients send them, made into what a template wants; tools told in words
where it tells nothing of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, NoReturn

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.dialect.families import HARMONY, Ids
from tabagent.worker.dialect.template_facts import TemplateFacts

Message = dict[str, Any]

DEEPEST: Final = 64  # levels of arguments; templates and what guards them recurse
REASONING_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}}

_INSTRUCTIONS: Final = """\
You can call functions. Each line describes one, with a JSON schema of its arguments:
{tools}

To call a function, write its name and arguments in exactly this form, and nothing after it:
{form}
Write one such block for each call. The results are given to you afterwards. When no function is \
of use, answer in plain words."""

_NINE: Final = re.compile(r"[A-Za-z0-9]{9}")
_NUMBERED: Final = re.compile(r"functions\.\S+:\d+")


def definitions(tools: Sequence[wire.Tool]) -> list[dict[str, Any]]:
    """Tools in OpenAI's shape. Templates read every member, so none is left out."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": {**NO_ARGUMENTS, **(tool.parameters or {})},
            },
        }
        for tool in tools
    ]


def arranged(
    messages: list[Message], tools: Sequence[wire.Tool], facts: TemplateFacts
) -> list[Message]:
    """`messages` as the template wants them; `tools` in words where it does not tell of them.

    Raises InvalidRequest for arguments that are no JSON object and results that answer no call.
    """
    messages = _named(messages, facts.syntax.ids)
    if not facts.several:
        messages = _one_call_each(messages)
    messages = [_with_reasoning(_with_calls(message, facts), facts) for message in messages]
    if not facts.results:
        messages = _results_as_text(messages)
    if tools and not facts.tools:
        messages = _instructed(messages, tools, facts)
    if not facts.system_stays and messages and messages[-1]["role"] == "tool":
        messages = _with_system_in_user(messages)
    return messages


# ---- calls and results --------------------------------------------------------------------------
def _named(messages: list[Message], form: Ids) -> list[Message]:
    """Arguments as objects, ids in the family's form, results with the name of their function."""
    named: list[Message] = []
    waiting: dict[str, dict[str, Any]] = {}  # calls without a result, by the id they came with
    formed: dict[str, str] = {}
    for position, message in enumerate(messages):
        if calls := message.get("tool_calls"):
            waiting = {}
            for number, call in enumerate(calls):
                function = call["function"]
                given = str(call.get("id") or f"{position}.{number}")
                id_ = formed.setdefault(given, _formed(given, form, function["name"], len(formed)))
                pointer = f"/messages/{position}/tool_calls/{number}"
                if given in waiting:
                    raise _invalid(f"{pointer}/id", "must differ from the ids of the other calls")
                arguments = _object(function.get("arguments"), f"{pointer}/function/arguments")
                function = {"name": function["name"], "arguments": arguments}
                waiting[given] = {"id": id_, "type": "function", "function": function}
            message = {**message, "tool_calls": list(waiting.values())}
        elif message.get("role") == "tool":
            call = waiting.pop(_answered(message, waiting, position))
            name = message.get("name") or call["function"]["name"]
            message = {**message, "tool_call_id": call["id"], "name": name}
        named.append(message)
    return named


def _object(arguments: Any, pointer: str) -> dict[str, Any]:
    detail = f"must be a JSON object, written as text, at most {DEEPEST} levels deep"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}", parse_constant=_refuse)
            json.dumps(arguments, ensure_ascii=False).encode()  # half a character is no text
        except (ValueError, RecursionError):
            raise _invalid(pointer, detail) from None
    if not isinstance(arguments, dict) or _is_deeper(arguments, DEEPEST):
        raise _invalid(pointer, detail)
    return arguments


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return not levels or any(_is_deeper(part, levels - 1) for part in parts)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _answered(message: Message, waiting: dict[str, dict[str, Any]], position: int) -> str:
    """The call that a result is of: by its id, else by its name, else the first."""
    given, name = message.get("tool_call_id"), message.get("name")
    for id_, call in waiting.items():
        if given == id_ or (not given and name in (None, call["function"]["name"])):
            return id_
    pointer = f"/messages/{position}/tool_call_id"
    raise _invalid(pointer, "must be the id of a call in the assistant's message before it")


def _invalid(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(
        f"{pointer} {detail}",
        param="messages",
        errors=[{"pointer": pointer, "detail": detail}],
    )


def _formed(given: str, form: Ids, name: str, number: int) -> str:
    """An id in the form that the family asks for; the same one for the same call."""
    if form == "nine" and not _NINE.fullmatch(given):
        return blake2b(given.encode(), digest_size=5).hexdigest()[:9]
    if form == "numbered" and not _NUMBERED.fullmatch(given):
        return f"functions.{name}:{number}"
    return given


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Each call in a message of its own, with its result behind it."""
    parted: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls") or []
        if len(calls) > 1:
            first, *others = ({**message, "tool_calls": [call]} for call in calls)
            parted += [first, *({**other, "content": ""} for other in others)]
        elif message.get("role") == "tool":
            asked = (position for position, m in enumerate(parted) if _asks(m, message))
            parted.insert(max(asked, default=len(parted)) + 1, message)
        else:
            parted.append(message)
    return parted


def _asks(message: Message, result: Message) -> bool:
    calls = message.get("tool_calls") or []
    return any(call["id"] == result["tool_call_id"] for call in calls)


def _with_calls(message: Message, facts: TemplateFacts) -> Message:
    """The calls in the template's form, or written into the content as the model writes them."""
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    calls, content = message.get("tool_calls"), message.get("content")
    if not calls:  # null and [] are none; some templates ask by the member alone
        return {**rest, "content": "" if content is None else content}
    if not facts.calls:
        written = facts.syntax.write([call["function"] for call in calls])
        return {**rest, "content": f"{content}\n{written}" if content else written}
    if facts.arguments_as_text:
        calls = [{**call, "function": _as_text(call["function"])} for call in calls]
    return {**rest, "content": content or facts.empty, "tool_calls": calls}


def _as_text(function: dict[str, Any]) -> dict[str, Any]:
    return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def _results_as_text(messages: list[Message]) -> list[Message]:
    """Results as what the user says, in one message with what the user says beside them."""
    told: list[Message] = []
    joins = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            message = {"role": "user", "content": text}
        if told and message["role"] == told[-1]["role"] == "user" and (joins or is_result):
            message = {**message, "content": f"{told.pop()['content']}\n{message['content']}"}
        joins = is_result or (joins and message["role"] == "user")
        told.append(message)
    return told


# ---- reasoning, and tools in words --------------------------------------------------------------
def _with_reasoning(message: Message, facts: TemplateFacts) -> Message:
    """Earlier reasoning where the template reads it; models want it left out where it does not."""
    text = next((message[key] for key in REASONING_KEYS if message.get(key)), "")
    message = {key: value for key, value in message.items() if key not in REASONING_KEYS}
    if not text or not facts.reasoning_key:
        return message
    if facts.syntax is HARMONY and message.get("tool_calls") and message["content"]:
        # Its template takes one text before a call.
        text, message["content"] = f"{text}\n\n{message['content']}", ""
    return {**message, facts.reasoning_key: text}


def _instructed(
    messages: list[Message], tools: Sequence[wire.Tool], facts: TemplateFacts
) -> list[Message]:
    """With the tools told of in the system's message, or the user's first where none is taken."""
    example = {"name": "FUNCTION", "arguments": {"ARGUMENT": "VALUE"}}
    shown = (definition["function"] for definition in definitions(tools))
    text = _INSTRUCTIONS.format(
        tools="\n".join(json.dumps(function, ensure_ascii=False) for function in shown),
        form=facts.syntax.write([example]),
    )
    role = "system" if facts.system else "user"
    if role == "system" and (not messages or messages[0]["role"] != role):
        return [{"role": role, "content": text}, *messages]
    place = next((i for i, message in enumerate(messages) if message["role"] == role), None)
    if place is None:
        return [{"role": role, "content": text}, *messages]
    first = messages[place]
    both = [first["content"], text] if role == "system" else [text, first["content"]]
    return [
        *messages[:place],
        {**first, "content": "\n\n".join(part for part in both if part)},
        *messages[place + 1 :],
    ]


def _with_system_in_user(messages: list[Message]) -> list[Message]:
    """With the first system message before what the user said last."""
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if messages[0]["role"] != "system" or not users:
        return messages
    last = messages[users[-1]]
    both = {**last, "content": f"{messages[0]['content']}\n\n{last['content']}"}
    return [*messages[1 : users[-1]], both, *messages[users[-1] + 1 :]]
