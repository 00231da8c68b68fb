"""JSON Schema of every message of the native socket and the data channel, from the table.

A pure function, as the OpenAPI document is, so that the committed file can be checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tabagent import __version__
from tabagent.conversation import ID_LENGTH
from tabagent.openapi import PROBLEM, schemas_of
from tabagent.operation import Operation

REF: Final = "#/$defs/{model}"
ABOUT: Final = """\
Messages of TabAgent's native socket and WebRTC data channel: one JSON object each, in UTF-8. \
`ClientMessage` goes to the server, `ServerMessage` comes from it, `HostMessage` from the browser's \
native host alone. `routes` says what each operation takes (`request`), what its plain reply holds \
as `data` (`reply`), and its chunks where it streams (`event`).
"""
ID: Final = {"type": "string", "minLength": 1, "maxLength": ID_LENGTH}
SEQ: Final = {"type": "integer", "minimum": 0}


def messages(operations: Iterable[Operation]) -> dict[str, Any]:
    """The schema of the messages of `operations`."""
    table = list(operations)
    refs, definitions = schemas_of(table, REF)
    own = {
        "CancelMessage": _object(
            "Ends a running request.", request_id=ID, route={"const": "cancel"}
        ),
        "PongMessage": _object("Answers a ping.", route={"const": "pong"}),
        "PartMessage": _object(
            "A part of a message that is larger than the channel takes; the joined texts are it.",
            request_id=ID,
            event={"const": "part"},
            seq=SEQ,
            more={"type": "boolean"},
            text={"type": "string"},
        ),
        "ReplyMessage": _from_server("The plain reply.", data={}),
        "ChunkMessage": _from_server(
            "An event of a stream.", event={"const": "chunk"}, seq=SEQ, data={}
        ),
        "DoneMessage": _from_server(
            "The end of a stream; `seq` is the number after the last chunk's.",
            event={"const": "done"},
            seq=SEQ,
        ),
        "CancelledMessage": _from_server(
            "The end of a cancelled request.", event={"const": "cancelled"}
        ),
        "ReplyPartMessage": _from_server(
            "A part of a message that is larger than the channel takes; the joined texts are it.",
            event={"const": "part"},
            seq=SEQ,
            more={"type": "boolean"},
            text={"type": "string"},
        ),
        "PingMessage": _object(
            "Answer it with a pong.",
            request_id={"type": "null"},
            success={"const": True},
            event={"const": "ping"},
        ),
        "FailureMessage": _object(
            "A request that failed; without a `request_id`, a message that could not be read.",
            request_id={"anyOf": [ID, {"type": "null"}]},
            success={"const": False},
            error={"$ref": "#/$defs/Problem"},
        ),
        "StatusMessage": _object(
            "How the host gets to the server.",
            request_id={"type": "null"},
            success={"const": True},
            event={"const": "status"},
            data={
                "type": "object",
                "required": ["state"],
                "properties": {
                    "state": {"enum": ["starting", "connected"]},
                    "elapsed_ms": {"type": "integer"},
                    "version": {"type": "string"},
                },
            },
        ),
        "Problem": PROBLEM,
    }
    assert not own.keys() & definitions.keys(), "a reply has the name of a message"
    requests = {f"request.{op.name}": _request(op, refs) for op in table}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TabAgent messages",
        "version": __version__,
        "description": ABOUT,
        "anyOf": [_ref(name) for name in ("ClientMessage", "ServerMessage", "HostMessage")],
        "routes": {op.name: _route(op, refs) for op in table},
        "$defs": {
            "ClientMessage": {"anyOf": [_ref(n) for n in ("CancelMessage", "PongMessage", "PartMessage", *requests)]},
            "ServerMessage": {
                "anyOf": [
                    _ref(name)
                    for name in (
                        "ReplyMessage", "ChunkMessage", "DoneMessage", "CancelledMessage", "ReplyPartMessage", "PingMessage", "FailureMessage",
                    )
                ]
            },
            "HostMessage": {"anyOf": [_ref("StatusMessage"), _ref("FailureMessage")]},
            **own,
            **requests,
            **definitions,
        },
    }  # fmt: skip


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REF.format(model=name)}


def _object(about: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": about,
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _from_server(about: str, **properties: Any) -> dict[str, Any]:
    return _object(about, request_id=ID, success={"const": True}, **properties)


def _request(op: Operation, refs: Any) -> dict[str, Any]:
    payload = refs[op.request, "validation"]
    message = _object(op.summary, request_id=ID, route={"const": op.name}, payload=payload)
    if not any(field.is_required() for field in op.request.model_fields.values()):
        message["required"] = ["request_id", "route"]
    return message


def _route(op: Operation, refs: Any) -> dict[str, Any]:
    entry = {
        "access": op.access.name.lower(),
        "request": _ref(f"request.{op.name}"),
        "reply": refs[op.reply, "serialization"],
    }
    if op.event:
        entry["event"] = refs[op.event, "serialization"]
    return entry
