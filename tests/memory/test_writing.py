"""Titles and summaries: what is asked for, and what of an answer is taken."""

from __future__ import annotations

import pytest

from tabagent.memory.writing import ask_summary, ask_title, title_of
from tabagent.stores.shapes import Message


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Boiling carrots", "Boiling carrots"),
        ('\n  "Boiling carrots."\nand more', "Boiling carrots"),
        ("**Title: Boiling carrots**", "Boiling carrots"),
        ("Titel: Möhren kochen", "Möhren kochen"),
        ("«Cuire des carottes»", "Cuire des carottes"),
        ("", None),
        ("   \n  ", None),
        ("#", None),
        ("a long answer that says everything but a title " * 3, None),
    ],
)
def test_a_title_is_a_line_without_its_wrapping_or_none(answer: str, title: str | None) -> None:
    assert title_of(answer) == title


def test_what_was_said_is_quoted_and_cut_and_the_summary_so_far_comes_first() -> None:
    messages = [Message("user", "x" * 5000), Message("assistant", None), Message("user", "last")]
    (_, asked) = ask_title(messages)
    assert len(asked["content"]) < 1700
    assert "assistant:" not in asked["content"]
    system, summed = ask_summary("They met.", messages, 100)
    assert "material" in system["content"]
    assert summed["content"].index("They met.") < summed["content"].index("user: last")
