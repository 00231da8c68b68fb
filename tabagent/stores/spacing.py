"""Words in scripts that write no spaces between them."""

from __future__ import annotations

import re
from typing import Final

UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)


def spaced(said: str) -> str:
    """The text with every character of such a script as a word of its own, which is found."""
    return UNSPACED.sub(r" \g<0> ", said)
