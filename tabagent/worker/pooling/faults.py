"""Errors of requests for vectors, ranks and labels, with the place of what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tabagent.errors import ContextLengthExceeded, InvalidRequest, ModelCorrupt, TabAgentError

SHOWN: Final = 16  # faulty inputs that an error lists


def pointer_of(index: int, inputs: Sequence[Any]) -> str:
    """Where the request has this input, which it may give without a list when it is the only one."""
    return f"/input/{index}" if len(inputs) > 1 else "/input"


def invalid(detail: str, pointers: list[str]) -> InvalidRequest:
    return InvalidRequest(
        f"{pointers[0]}: {detail}",
        param=pointers[0].split("/")[1],
        errors=[{"pointer": pointer, "detail": detail} for pointer in pointers[:SHOWN]],
    )


def check_lengths(inputs: Sequence[Any], limit: int, *, ways_out: str) -> None:
    """Raise ContextLengthExceeded when a sequence is longer than the model reads at once."""
    long = [index for index, tokens in enumerate(inputs) if len(tokens) > limit]
    if not long:
        return
    first = len(inputs[long[0]])
    raise ContextLengthExceeded(
        f"{pointer_of(long[0], inputs)} has {first} tokens, and this model reads {limit} at once: "
        f"shorten it, or send {ways_out}",
        param="input",
        prompt_tokens=first,
        context_length=limit,
        max_tokens=None,
        errors=[
            {"pointer": pointer_of(i, inputs), "detail": f"has {len(inputs[i])} tokens of {limit}"}
            for i in long[:SHOWN]
        ],
    )


def check_total(inputs: Sequence[Any], limit: int, pointer: str) -> None:
    total = sum(len(tokens) for tokens in inputs)
    if total > limit:
        raise invalid(f"{total} tokens in all, of which one request may have {limit}", [pointer])


def query_too_long(tokens: int, limit: int) -> ContextLengthExceeded:
    """`tokens` are the query's, with what belongs to every pair."""
    detail = (
        f"the query has {tokens} tokens with what belongs to every pair, "
        f"and the context holds {limit} together with the document"
    )
    return ContextLengthExceeded(
        detail,
        param="query",
        prompt_tokens=tokens,
        context_length=limit,
        max_tokens=None,
        errors=[{"pointer": "/query", "detail": detail}],
    )


def senseless(file: str, pointer: str, found: str) -> TabAgentError:
    """The error of an input of which no usable numbers come: weights or quantisation are bad."""
    detail = f"the model computes {found}"
    return ModelCorrupt(
        f"{pointer}: {detail}",
        param=pointer.split("/")[1],
        file=file,
        check="numbers",
        expected="finite numbers that are not all zero",
        actual=found,
        errors=[{"pointer": pointer, "detail": detail}],
    )
