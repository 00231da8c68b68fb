"""A TabAgentError as an HTTP response. The only place where errors become HTTP."""

from __future__ import annotations

import json
import math

from starlette.types import Send

from tabagent.errors import TabAgentError, problem
from tabagent.exchange import failed

Headers = list[tuple[bytes, bytes]]


async def send_problem(send: Send, error: TabAgentError, request_id: str, extra: Headers) -> None:
    """Send `error` as problem details (RFC 9457) with OpenAI's `error` member."""
    failed(error.slug)
    body = json.dumps(problem(error, request_id), ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
        # The openai clients retry by status alone unless this header says otherwise.
        (b"x-should-retry", b"true" if error.retryable else b"false"),
        *extra,
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
