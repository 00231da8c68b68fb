"""Requests that must be refused, and how: path, body, status and the problem's slug."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request and what it deserves."""

    path: str
    body: bytes
    status: int
    slug: str
    method: str = "POST"
    content_type: str = JSON


def _chat(status: int, slug: str, /, **more: Any) -> Refusal:
    body = {"messages": [{"role": "user", "content": "Hello"}], **more}
    return Refusal(CHAT, json.dumps(body).encode(), status, slug)


def _post(path: str, status: int, slug: str, body: Any) -> Refusal:
    return Refusal(path, json.dumps(body).encode(), status, slug)


def _schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def refusals(draw: random.Random, embedder: str) -> Sequence[Refusal]:
    """One of each kind; what is unknown or wrong in them is another each time."""
    odd = f"odd_{draw.randrange(10**6)}"
    malformed, invalid, unsupported = (
        "malformed-request",
        "invalid-request",
        "unsupported-parameter",
    )
    too_long, no_model, not_found = "context-length-exceeded", "model-not-found", "not-found"
    long = " ".join([odd] * 4000)
    nothing_fits = {"allOf": [{"type": "string", "title": odd}, {"type": "integer"}]}
    return (
        # No JSON, or none that means one thing
        Refusal(CHAT, b'{"messages": [', 400, malformed),
        Refusal(CHAT, b"\xff\xfe\x00", 400, malformed),
        Refusal(CHAT, b'{"n": 1, "n": 2}', 400, malformed),
        Refusal(CHAT, b'{"temperature": NaN}', 400, malformed),
        Refusal(CHAT, b"[" * 5000, 400, malformed),
        Refusal(CHAT, b"messages=hello", 415, "unsupported-media-type", content_type="text/plain"),
        # Unknown fields, wrong types, values out of range
        Refusal(CHAT, b"", 400, invalid),
        _chat(400, invalid, **{odd: 1}),
        _chat(400, invalid, temperature="hot"),
        _chat(400, invalid, temperature=9),
        _chat(400, invalid, max_tokens=0),
        _chat(400, invalid, stream="yes"),
        _chat(400, invalid, n=100),
        _chat(400, invalid, top_logprobs=3),
        _chat(400, invalid, messages=[]),
        _chat(400, invalid, messages=odd),
        _chat(400, invalid, messages=[{"role": odd, "content": "Hello"}]),
        _chat(400, unsupported, messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        _chat(400, unsupported, audio={"voice": odd}),
        _chat(403, "feature-disabled", grammar='root ::= "a"'),
        # Schemas that cannot be, or cannot be kept
        _chat(400, invalid, response_format={"type": odd}),
        _chat(400, invalid, response_format=_schema(False)),
        _chat(400, invalid, response_format=_schema({"type": odd})),
        _chat(400, invalid, response_format=_schema({"type": "string", "pattern": "("})),
        _chat(422, "grammar-invalid", response_format=_schema(nothing_fits)),
        # Too long, in streams too
        _chat(400, too_long, messages=[{"role": "user", "content": long}]),
        _chat(400, too_long, messages=[{"role": "user", "content": long}], stream=True),
        _post(TEXT, 400, too_long, {"prompt": long}),
        _post(VECTORS, 400, too_long, {"model": embedder, "input": ["short", long]}),
        # The wrong model, or none
        _chat(404, no_model, model=f"local/{odd}"),
        _chat(404, no_model, model=f"local/{odd}", stream=True),
        _chat(422, "wrong-model-task", model=embedder),
        _post(VECTORS, 404, no_model, {"model": odd, "input": "Hello"}),
        _post(VECTORS, 422, "wrong-model-task", {"model": "tabagent/guide", "input": "Hello"}),
        _post(VECTORS, 400, invalid, {"model": embedder, "input": [[1, 2, 3]]}),
        _post(VECTORS, 400, invalid, {"model": embedder, "input": ""}),
        _post(TEXT, 400, invalid, {"prompt": [2**31 - 1]}),
        # The wrong place, or without the right
        _post(f"/v1/{odd}", 404, not_found, {}),
        Refusal(CHAT, b"", 405, "method-not-allowed", method="GET"),
        _post("/v1/halt", 404, "request-not-found", {"request_id": odd}),
        _post("/v1/models/unload", 401, "unauthorized", {"model": embedder}),
    )
