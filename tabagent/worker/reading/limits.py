"""What one document may cost, and the exception that says it cannot be read."""

from __future__ import annotations

from typing import Any, Final

from tabagent.paper import Unreadable

MEMORY: Final = 2**30  # bytes of address space above what the child starts with
COMPUTE_S: Final = 30.0  # seconds of a core
TEXT: Final = 50_000_000  # bytes of a text, and of what a document inflates to
PAGES: Final = 2_000
RATIO: Final = 100  # bytes that one compressed byte may become


class CannotRead(Exception):
    """`detail` is for the person who sent the document: no paths, no parser's jargon."""

    def __init__(self, detail: str, slug: str = "document-unreadable", **members: Any) -> None:
        super().__init__(detail)
        self.answer = Unreadable(slug, detail, members)


def too_large(what: str) -> CannotRead:
    """`what` is over TEXT."""
    return CannotRead(f"{what} is over {TEXT // 10**6} MB", "payload-too-large", limit_bytes=TEXT)
