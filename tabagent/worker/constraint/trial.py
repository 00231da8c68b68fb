"""A child that compiles grammars to see what becomes of it: `python -m ...constraint.trial`.

The compiler has no deadline, and some grammars keep it busy for minutes or crash it. Here that
costs a process that is small, limited and killed in time; what passes is compiled again where the
model is. The first frame tells the vocabulary without its texts, then each asks about a grammar.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Final

from llguidance import LLTokenizer

from tabagent.errors import GrammarInvalid
from tabagent.frames import FrameDecoder, encode
from tabagent.worker.confined import Confined
from tabagent.worker.confinement import COMPUTE_S, budget, run
from tabagent.worker.constraint.matcher import STACK, make_matcher
from tabagent.worker.constraint.vocabulary import Vocabulary, make_tokenizer

MEMORY: Final = 512 * 2**20  # bytes of address space


class Trial:
    """Tries grammars for one vocabulary in a child, which is replaced when it dies of one.

    Thread-safe. The child starts with the first grammar; `close` ends it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        special = {
            token: vocabulary.pieces[token].decode(errors="replace")
            for token, is_special in enumerate(vocabulary.special)
            if is_special
        }
        shape = {
            "tokens": len(vocabulary.pieces),
            "special": special,
            "end": list(vocabulary.end_tokens),
        }
        self._greeting = json.dumps(shape).encode()
        self._lock = threading.Lock()
        self._child: Confined | None = None

    def try_out(self, lark: str) -> None:
        """Raises GrammarInvalid when `lark` is none, or takes too long, too much or too deep."""
        with self._lock:
            if self._child is None or not self._child.alive:
                self._close()
                self._child = Confined(__name__, greeting=self._greeting)
            answer = self._child.ask(json.dumps(lark).encode())
        if answer is None:
            raise GrammarInvalid(
                f"the grammar takes more than {COMPUTE_S:g} seconds or too much memory to compile"
            )
        if "error" in answer:
            raise GrammarInvalid(answer["error"])

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def main(read: Callable[[int], bytes], write: Callable[[bytes], Any]) -> None:
    """Answer until the input ends."""
    decoder = FrameDecoder()
    tokenizer: LLTokenizer | None = None
    while data := read(1 << 16):
        for body in decoder.feed(data):
            if tokenizer is None:
                tokenizer = _tokenizer(json.loads(body))
                write(encode(b"{}"))  # ready
                continue
            budget()
            answer = _judge(tokenizer, json.loads(body))
            budget(0)
            write(encode(json.dumps(answer).encode()))


def _judge(tokenizer: LLTokenizer, lark: str) -> dict[str, str]:
    try:
        make_matcher(tokenizer, lark, stack=STACK // 2)  # what passes has room to spare later
    except GrammarInvalid as error:
        return {"error": error.detail}
    return {}


def _tokenizer(shape: dict[str, Any]) -> LLTokenizer:
    """The same tokens in number and name, with the bytes for texts: all that compiling looks at."""
    special = {int(token): name.encode() for token, name in shape["special"].items()}
    pieces = [special.get(token, b"") for token in range(shape["tokens"])]
    pieces += [bytes([byte]) for byte in range(256)]
    return make_tokenizer(
        Vocabulary(
            pieces=pieces,
            special=[token in special for token in range(len(pieces))],
            end_tokens=shape["end"],
            tokenize=lambda text: [shape["tokens"] + byte for byte in text.encode()],
        )
    )


if __name__ == "__main__":
    run(main, MEMORY)
