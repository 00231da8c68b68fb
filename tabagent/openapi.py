"""OpenAPI 3.1 from the table: a pure function, so the committed file can be checked."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from tabagent import __version__, errors
from tabagent.operation import Access, Operation

ALWAYS: Final = (
    errors.MalformedRequest, errors.InvalidRequest, errors.PayloadTooLarge,
    errors.UnsupportedMediaType, errors.RequestTimeout, errors.HostNotAllowed,
    errors.OriginNotAllowed, errors.Unauthorized, errors.RateLimited, errors.InternalError,
)  # fmt: skip
REFUSALS: Final = (errors.AccessDenied, errors.ShuttingDown)
REF: Final = "#/components/schemas/{model}"
BODILESS: Final = ("GET", "DELETE")  # their parameters stand in the path and the query
SECURITY: Final[dict[Access, list[dict[str, list[str]]]]] = {
    Access.PUBLIC: [],
    Access.USER: [{}, {"token": []}],
    Access.ADMIN: [{"token": []}],
}
DONE: Final = "`data:` holds one of these; the last event is `data: [DONE]`."
NAMED: Final = "`data:` holds one of these; `event:` is its `type`."
NEEDS_OWNER: Final = "Needs the owner's token."

INTRODUCTION: Final = """\
One local server for chat, text generation and more, on models that run on your own hardware.
Point any OpenAI client at `/v1`.

**Who may call.** On a loopback address, programs of this machine and this page may use USER
operations without a token. ADMIN operations need the owner's: run `tabagent token`, press
*Authorize* and paste it.

**Honour or refuse.** A parameter is applied or answered with an error naming it. Fields marked as
having no meaning on a local server are accepted; any other unknown field is refused.

**Errors** are [problem details](/problems/) (RFC 9457) with OpenAI's `error` member beside them.
Their `type` leads to a page that says what to do.

**Ids.** Every reply carries `X-Request-Id`, which a request may choose itself by sending a UUID.
The name at the right of an operation is its `route` on the transports that send messages.
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


class _AsWritten(GenerateJsonSchema):
    """Keeps the order in which fields and examples were written: `messages` before `stream`."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document of `operations`."""
    table = list(operations)
    refs, definitions = schemas_of(table, REF)
    schemas: dict[str, Any] = {**definitions, "Problem": PROBLEM}
    paths: dict[str, Any] = {}
    for op in table:
        for position, (method, path) in enumerate(op.routes):
            entry = _operation(op, method, path, refs, schemas)
            if position:
                entry["operationId"] += f"_{position + 1}"
                entry["description"] = f"Alias of `{' '.join(op.routes[0])}`."
            paths.setdefault(path, {})[method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TabAgent",
            "version": __version__,
            "description": INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": list(
            {op.tag: {"name": op.tag, "description": _domain(op)} for op in table}.values()
        ),
        "paths": paths,
        "components": {
            "schemas": _used(schemas, paths),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The owner's token: `tabagent token` prints it.",
                }
            },
        },
    }


def schemas_of(table: Iterable[Operation], template: str) -> tuple[Any, dict[str, Any]]:
    """(a reference for each request, reply and event by (type, mode); the schemas by name)."""
    types = {
        (model, mode): None
        for op in table
        for model, mode in (
            (op.request, "validation"), (op.reply, "serialization"), (op.event, "serialization")
        )
        if model is not None
    }  # fmt: skip
    refs, definitions = models_json_schema(
        list(types),  # type: ignore[arg-type]  # modes are literals
        ref_template=template,
        schema_generator=_AsWritten,
    )
    return refs, definitions.get("$defs", {})


def _used(schemas: dict[str, Any], paths: dict[str, Any]) -> dict[str, Any]:
    """Those that `paths` lead to; a request whose fields are all parameters needs none."""
    found: set[str] = set()
    pending: list[Any] = [paths]
    while pending:
        named = set(re.findall(rf'"{REF.format(model="(.+?)")}"', json.dumps(pending.pop())))
        pending += [schemas[name] for name in named - found]
        found |= named
    return {name: schema for name, schema in schemas.items() if name in found}


def _domain(op: Operation) -> str:
    """What the service's module says of itself, in its first paragraph."""
    about = inspect.getdoc(inspect.getmodule(op.handler)) or op.tag
    return " ".join(about.partition("\n\n")[0].split())


def _operation(
    op: Operation, method: str, path: str, refs: Any, schemas: dict[str, Any]
) -> dict[str, Any]:
    request = refs[op.request, "validation"]
    schema = schemas[request["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = schema.get("properties", {})
    required: list[str] = schema.get("required", [])
    example = (schema.get("examples") or [{}])[0]
    in_path = re.findall(r"{(\w+)}", path)
    in_query = [n for n in properties if n not in in_path] if method in BODILESS else []
    entry: dict[str, Any] = {
        "operationId": op.name,
        "summary": op.summary,
        "description": "\n\n".join(
            part
            for part in (op.description, NEEDS_OWNER if op.access is Access.ADMIN else "")
            if part
        ),
        "tags": [op.tag],
        "security": SECURITY[op.access],
        "parameters": [
            {
                "name": name,
                "in": "path" if name in in_path else "query",
                "required": name in in_path or name in required,
                **{k: v for k, v in properties[name].items() if k == "description"},
                "schema": {k: v for k, v in properties[name].items() if k != "description"},
                **({"example": example[name]} if name in example else {}),
            }
            for name in (*in_path, *in_query)
        ],
        "responses": _responses(op, refs),
        "x-access": op.access.name.lower(),
    }
    if method not in BODILESS:
        if in_path:  # the body holds the rest
            request = {
                **{k: v for k, v in schema.items() if k != "examples"},
                "properties": {k: v for k, v in properties.items() if k not in in_path},
                "required": [name for name in required if name not in in_path],
            }
        entry["requestBody"] = {
            "required": any(name not in in_path for name in required),
            "content": {
                "application/json": {
                    "schema": request,
                    "example": {k: v for k, v in example.items() if k not in in_path},
                }
            },
        }
    return {key: value for key, value in entry.items() if value != ""}


def _responses(op: Operation, refs: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "application/json": {"schema": refs[op.reply, "serialization"]},
    }
    if op.event:
        content["text/event-stream"] = {
            "schema": refs[op.event, "serialization"],
            "x-each-event": DONE if op.done else NAMED,
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
