"""JSON as an API should read it: one object, no repeated keys, finite numbers, bounded depth."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from tabagent.errors import MalformedRequest

MAX_DEPTH: Final = 64


def load_object(body: bytes) -> dict[str, Any]:
    """The object that `body` holds. Raises MalformedRequest saying what is wrong."""
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_no_repeats,
            parse_constant=_not_finite,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"not JSON: {error}") from None
    except RecursionError:
        raise MalformedRequest(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # an integer of thousands of digits
        raise MalformedRequest(str(error).partition(";")[0]) from None
    if not isinstance(value, dict):
        raise MalformedRequest("the body must be a JSON object")
    _check(value, 1)
    return value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise MalformedRequest(f"the key {key[:64]!r} stands twice in one object")
            seen.add(key)
    return result


def _not_finite(text: str) -> float:
    raise MalformedRequest(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MalformedRequest("a number is too large")
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse depth and lone surrogates, which no encoder can send on."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise MalformedRequest("a string holds half of a surrogate pair") from None
        return
    if not isinstance(value, dict | list):
        return
    if depth > MAX_DEPTH:
        raise MalformedRequest(f"nested deeper than {MAX_DEPTH} levels")
    for item in value if isinstance(value, list) else (*value, *value.values()):
        _check(item, depth + 1)
