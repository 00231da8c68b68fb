"""llguidance's matcher, within our limits and in our words."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from tabagent.errors import GrammarInvalid

LIMITS: Final = LLParserLimits(
    # An object of 500 optional properties has a row of 2,000 items and 60,000 in a mask.
    max_items_in_row=20_000,
    step_max_items=200_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,  # 10 ms
    max_lexer_states=50_000,  # 1 to 2 kB each, kept as long as the grammar is
    max_grammar_size=200_000,
    precompute_large_lexemes=False,  # over all tokens, before anybody needs it
    verbose_errors=False,
)
STACK: Final = 64 * 2**20  # bytes; the compiler recurses with the grammar
LONGEST: Final = 300  # characters of the library's words
_stack_lock = threading.Lock()


def make_matcher(tokenizer: LLTokenizer, lark: str, *, stack: int = STACK) -> LLMatcher:
    """Compile `lark`, which has a rule `start`. Raises GrammarInvalid in the library's words.

    There is no deadline here, and too deep a grammar ends the process: see trial.
    """
    made: list[LLMatcher] = []

    def make() -> None:
        made.append(LLMatcher(tokenizer, lark, log_level=0, limits=LIMITS))

    _run_on_stack(make, stack)
    if not made or made[0].is_error():
        raise GrammarInvalid(said(made[0].get_error() if made else "panic"))
    return made[0]


def said(error: str) -> str:
    """The library's error without its dumps, its places in a text nobody sent, and its length."""
    first = error.strip().split("\n", 1)[0]
    if first.startswith("panic") or not first:
        return "the grammar is too complex"
    first = re.sub(r"^((at )?\d+\(\d+\): |at EOF: |failed to compile JSON schema: )+", "", first)
    first = first.partition("; following special tokens")[0]  # there are thousands
    return f"the grammar cannot be used: {first[:LONGEST]}"


def _run_on_stack(work: Callable[[], None], stack: int) -> None:
    """Run `work` with so many bytes of stack, whatever the platform gives to threads."""
    with _stack_lock:  # a thread someone else starts meanwhile has more than it needs
        before = threading.stack_size(stack)
        thread = threading.Thread(target=work, name="compile")
        thread.start()
        threading.stack_size(before)
    thread.join()
