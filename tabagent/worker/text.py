"""Text as it may be sent: whole characters, and nothing that could still become a stop string."""

from __future__ import annotations

import codecs


class TextStream:
    """Turns the bytes of tokens into text that is safe to send at once.

    A token may end inside a character, and a stop string may begin at the end of what is there;
    both are held back until they are decided.

    >>> s = TextStream(["END"])
    >>> s.feed(b"one E"), s.feed(b"N"), s.feed(b"x"), s.feed(b" END no"), s.stopped
    ('one ', '', 'ENx', ' ', True)
    """

    def __init__(self, stops: list[str]) -> None:
        self._stops = [stop for stop in stops if stop]  # the empty one is everywhere
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Add a token's bytes; the text that may be sent now. After a stop string: nothing."""
        return "" if self.stopped else self._release(self._decode(data))

    def flush(self) -> str:
        """The rest, once no token follows; an unfinished character becomes U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._decode(b"", True))
        held, self._held = self._held, ""
        return text + held

    def _release(self, text: str) -> str:
        if not self._stops:
            return text
        text = self._held + text
        found = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped, self._held = True, ""
            return text[:found]
        keep = max(_overlap(text, stop) for stop in self._stops)
        split = len(text) - keep
        self._held = text[split:]
        return text[:split]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
