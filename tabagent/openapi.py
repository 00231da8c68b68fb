"""OpenAPI 3.1 from the table: a pure function, so the committed file can be checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from tabagent import __version__, errors
from tabagent.operation import Access, Operation

ALWAYS: Final = (
    errors.MalformedRequest, errors.InvalidRequest, errors.PayloadTooLarge,
    errors.UnsupportedMediaType, errors.RequestTimeout, errors.HostNotAllowed,
    errors.OriginNotAllowed, errors.InternalError,
)  # fmt: skip
REFUSALS: Final = (errors.Unauthorized, errors.AccessDenied, errors.ShuttingDown)
REF: Final = "#/components/schemas/{model}"

INTRODUCTION: Final = """\
One local server for chat, text generation and more, on models that run on your own hardware.
Point any OpenAI client at `/v1`.

**Who may call.** On a loopback address, programs of this machine and this page may use USER
operations without a token. ADMIN operations need the owner's: run `tabagent token`, press
*Authorize* and paste it.

**Honour or refuse.** A parameter is applied or answered with an error naming it. Fields marked as
having no meaning on a local server are accepted; any other unknown field is refused.

**Errors** are problem details (RFC 9457) with OpenAI's `error` member beside them. Their `type`
leads to a page that says what to do.
"""

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457 problem details, with OpenAI's `error` member.",
    "required": ["type", "title", "status", "detail", "instance", "code", "retryable", "error"],
    "properties": {
        "type": {"type": "string", "description": "A page that says what to do."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request id as a URN."},
        "code": {"type": "string", "enum": sorted(errors.CATALOGUE)},
        "retryable": {"type": "boolean"},
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        },
    },
    "additionalProperties": True,
}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document of `operations`."""
    table = list(operations)
    types = {
        (model, mode): None
        for op in table
        for model, mode in (
            (op.request, "validation"), (op.reply, "serialization"), (op.event, "serialization")
        )
        if model is not None
    }  # fmt: skip
    refs, definitions = models_json_schema(list(types), ref_template=REF)  # type: ignore[arg-type]  # modes are literals
    schemas: dict[str, Any] = {**definitions.get("$defs", {}), "Problem": PROBLEM}
    paths: dict[str, Any] = {}
    for op in table:
        for position, (method, path) in enumerate(op.routes):
            entry = _operation(op, method, path, refs, schemas)
            if position:
                entry["operationId"] += f"_{position + 1}"
                entry["description"] = f"Alias of `{op.routes[0][1]}`."
                entry["deprecated"] = False
            paths.setdefault(path, {})[method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TabAgent",
            "version": __version__,
            "description": INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "This server"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(op.tag for op in table)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The owner's token: `tabagent token` prints it.",
                }
            },
        },
    }


def _operation(
    op: Operation, method: str, path: str, refs: Any, schemas: dict[str, Any]
) -> dict[str, Any]:
    request = refs[op.request, "validation"]
    schema = schemas[request["$ref"].rpartition("/")[2]]
    in_path = re.findall(r"{(\w+)}", path)
    entry: dict[str, Any] = {
        "operationId": op.name,
        "summary": op.summary,
        "description": op.description,
        "tags": [op.tag],
        "security": [{"token": []}] if op.access is Access.ADMIN else [{}, {"token": []}],
        "parameters": [],
        "responses": _responses(op, refs),
        "x-access": op.access.name.lower(),
    }
    properties: dict[str, Any] = schema.get("properties", {})
    example = (schema.get("examples") or [{}])[0]
    for name, about in properties.items():
        if name in in_path or method in ("GET", "DELETE"):
            parameter = {
                "name": name,
                "in": "path" if name in in_path else "query",
                "required": name in in_path or name in schema.get("required", ()),
                "schema": {k: v for k, v in about.items() if k != "description"},
            }
            if name in example:
                parameter["example"] = example[name]
            entry["parameters"].append(parameter)
    if method not in ("GET", "DELETE"):
        entry["requestBody"] = {
            "required": bool(schema.get("required")),
            "content": {"application/json": {"schema": request, "example": example}},
        }
    return entry


def _responses(op: Operation, refs: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "application/json": {"schema": refs[op.reply, "serialization"]},
    }
    if op.event:
        content["text/event-stream"] = {
            "schema": refs[op.event, "serialization"],
            "x-each-event": "`data:` holds one of these; the last event is `data: [DONE]`.",
        }
    description = (inspect.getdoc(op.reply) or op.summary).partition("\n")[0]
    responses: dict[str, Any] = {"200": {"description": description, "content": content}}
    refusals = REFUSALS if op.access is not Access.PUBLIC else ()
    by_status: dict[int, list[str]] = {}
    for error in dict.fromkeys((*ALWAYS, *refusals, *op.errors)):
        by_status.setdefault(error.status, []).append(error.slug)
    for status, slugs in sorted(by_status.items()):
        links = ", ".join(f"[{slug}](/problems/{slug})" for slug in slugs)
        responses[str(status)] = {
            "description": f"{HTTPStatus(status).phrase}: {links}",
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
    return responses
