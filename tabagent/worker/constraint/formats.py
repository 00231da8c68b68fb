"""The `format`s of strings and numbers that are enforced, or that ask for nothing.

Dates are ours: the compiler's own allow the 29th of February in every year and a 61st second.
"""

from __future__ import annotations

from typing import Final

_YEAR: Final = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP: Final = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"  # every 4th, 400th
_DATE: Final = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME: Final = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_N: Final = "[0-9]{1,6}"  # RFC 3339 sets no end to the digits; what reads durations does
_DAYS: Final = f"({_N}Y({_N}M({_N}D)?)?|{_N}M({_N}D)?|{_N}D)"
_HOURS: Final = f"T({_N}H({_N}M({_N}S)?)?|{_N}M({_N}S)?|{_N}S)"

PATTERNS: Final = {
    "date": f"^{_DATE}$",  # RFC 3339
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P({_DAYS}({_HOURS})?|{_HOURS}|{_N}W)$",  # its appendix A
    **{  # RFC 9562; Pydantic names the versions
        f"uuid{version}": f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}"
        "-[0-9a-f]{12}$"
        for version in range(1, 9)
    },
}
"""Formats said as patterns."""

COMPILED: Final = frozenset({"email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Formats that the grammar compiler enforces itself."""

RANGES: Final = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
"""OpenAPI's formats of integers: the smallest and the largest."""

FREE: Final = frozenset({"binary", "password", "path", "float", "double"})
"""Formats that every string or number has: they speak to people and programs."""

KNOWN: Final = frozenset({*PATTERNS, *COMPILED, *RANGES, *FREE})
