"""How long a model stays loaded when nobody uses it, as requests say it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S: Final = 366 * 86400.0


def seconds(value: Any) -> Any:
    """A number of seconds, or a text like `90s`, `5m` or `1h30m`; below 0 is for ever (-1)."""
    if isinstance(value, str):
        text = value.strip()
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            value = float(text)
        elif parts and "".join(map("".join, parts)) == text.lstrip("-"):
            value = sum(float(number) * UNITS[unit] for number, unit in parts)
            value = -1.0 if text.startswith("-") else value
        else:
            raise ValueError('must be seconds, or a text such as "90s", "5m" or "1h30m"')
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number of seconds or a text")
    return -1.0 if value < 0 else float(value)


KeepAlive = Annotated[
    Annotated[float, Field(le=LONGEST_S)] | None,
    BeforeValidator(lambda value: None if value is None else seconds(value)),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}],
            "default": None,
            "description": "Seconds that the model stays loaded afterwards, or `5m`, `1h`; "
            "0 lets it go at once, -1 keeps it.",
        }
    ),
]
