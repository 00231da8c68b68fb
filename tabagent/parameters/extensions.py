"""How a browser's extension is named: its origin, or its id alone."""

from __future__ import annotations

import re
from typing import Final

CHROME: Final = "chrome-extension://"
FIREFOX: Final = "moz-extension://"
ADD_ON: Final = "moz-extension-id:"
_UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_CHROME_ID: Final = re.compile("[a-p]{32}")
_FIREFOX_ORIGIN: Final = re.compile(FIREFOX + _UUID)
_ADD_ON_ID: Final = re.compile(
    rf"\{{{_UUID}\}}|[a-z0-9._-]{{0,64}}@[a-z0-9._-]{{1,64}}", re.IGNORECASE
)


def is_extension(origin: str) -> bool:
    """Whether this is an extension, as a browser or its native host says it."""
    if origin.startswith(ADD_ON):
        return bool(_ADD_ON_ID.fullmatch(origin, len(ADD_ON)))
    return is_web_extension(origin)


def is_web_extension(origin: str) -> bool:
    """Whether this is an extension's origin in a request over HTTP."""
    if origin.startswith(CHROME):
        return bool(_CHROME_ID.fullmatch(origin, len(CHROME)))
    return bool(_FIREFOX_ORIGIN.fullmatch(origin))


def origin_of(named: str) -> str | None:
    """The origin of an extension, by that or by its id alone; None when it is neither."""
    named = named.strip().removesuffix("/")
    if _CHROME_ID.fullmatch(named):
        return CHROME + named
    if _ADD_ON_ID.fullmatch(named):
        return ADD_ON + named
    return named if is_extension(named) else None
