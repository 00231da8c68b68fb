"""Vocabularies of tokenisers that change the beginning of a text."""

from __future__ import annotations

from tabagent.worker.constraint.vocabulary import Vocabulary, make_tokenizer

PIECES = [b"<end>", b"<ctl>", b" ", *(bytes([byte]) for byte in range(256))]


def bytewise(text: str) -> list[int]:
    return [3 + byte for byte in text.encode()]


def vocabulary(tokenize: object) -> Vocabulary:
    special = [token < 2 for token in range(len(PIECES))]
    return Vocabulary(PIECES, special, [0], tokenize)  # type: ignore[arg-type]


def test_a_space_that_the_tokeniser_puts_first_is_not_part_of_the_text() -> None:
    spaced = make_tokenizer(vocabulary(lambda text: [2, *bytewise(text)]))
    plain = make_tokenizer(vocabulary(bytewise))
    assert plain.tokenize_str("ab") == spaced.tokenize_str("ab") == bytewise("ab")


def test_a_tokeniser_that_always_changes_the_text_still_has_a_vocabulary() -> None:
    upper = make_tokenizer(vocabulary(lambda text: bytewise(text.upper())))
    assert upper.vocab_size == len(PIECES)


def test_the_end_tokens_are_all_known() -> None:
    both = Vocabulary(PIECES, [True, True, *[False] * 257], [0, 1], bytewise)
    assert make_tokenizer(both).eos_tokens == [0, 1]


def test_a_control_token_without_a_spelling_is_no_text() -> None:
    nameless = Vocabulary([b"<end>", b"", *PIECES[2:]], [True, True, *[False] * 257], [0], bytewise)
    tokenizer = make_tokenizer(nameless)
    assert tokenizer.tokenize_bytes(b"\xc3\xa9") == bytewise("é")
