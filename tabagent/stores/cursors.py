"""Cursors: where a page of a list ended, as a caller hands it back."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from tabagent.errors import InvalidRequest


def cursor(*values: Any) -> str:
    """What a caller is given; it holds the values of the last row and means nothing to others."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def position(given: str, *kinds: type | tuple[type, ...]) -> list[Any]:
    """The values in it. Raises InvalidRequest when they are not of these kinds."""
    try:
        values = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
        if len(values) == len(kinds) and all(
            isinstance(value, kind) and _keepable(value)
            for value, kind in zip(values, kinds, strict=True)
        ):
            return list(values)
    except (ValueError, TypeError):
        pass
    raise InvalidRequest(
        "/cursor: is not one that this list has given",
        param="cursor",
        errors=[{"pointer": "/cursor", "detail": "is not one that this list has given"}],
    )


def before(given: str | None, when: ColumnElement[float], id_: ColumnElement[str]) -> list[Any]:
    """The condition of a page of what is listed by time, the newest first; none of the first page.

    The cursor is of a time and an id.
    """
    if given is None:
        return []
    at, last = position(given, (float, int), str)
    return [or_(when < at, and_(when == at, id_ < last))]


def _keepable(value: Any) -> bool:
    """Whether a database can compare with it."""
    if isinstance(value, str):
        return "\0" not in value and value.isprintable()
    return math.isfinite(value) and abs(value) < 2**53
