"""Where the headings of a Markdown text are."""

from __future__ import annotations

import pytest

from tabagent.worker.reading.outline import Outline, headings, title


def found(text: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in headings(text)]


def test_headings_are_found_by_their_marks() -> None:
    text = "# One\n\ntext\n\n### Three ###\n\nTwo\n---\n\nTop *x*\n=====\n\n#no\n ## `code` [a](b)\n#\n"
    assert found(text) == [
        (1, "One"),
        (3, "Three"),
        (2, "Two"),
        (1, "Top *x*"),
        (2, "code a"),
        (1, ""),
    ]
    assert [text[h.start :].lstrip()[:3] for h in headings(text)][:4] == [
        "# O",
        "###",
        "Two",
        "Top",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```\n# not\n```\n",
        "~~~python\n# not\n```\n# not\n~~~\n",
        "````\n```\n# not\n````\n",
        "- item\n\n  ```sh\n# not\n  ```\n",
        "1. ```\n   # not\n   ```\n",
        "> ```\n> # not\n> ```\n",
        "    # indented code\n",
        "```\n# never closed\n",
        "text\n\n---\n\ntext\n",
        "| a | b |\n| --- | --- |\n",
        "two lines\nof text\n---\n",
        "---\ntitle: front\n---\n\ntext",
        "",
        "#",
    ],
)
def test_code_rules_tables_and_front_matter_are_no_headings(text: str) -> None:
    assert not [name for _, name in found(text) if name]


def test_a_fence_ends_where_it_ends() -> None:
    assert found("```\n# not\n```\n\n# yes\n") == [(1, "yes")]
    assert found("``` a `tick` in it\n# yes\n") == [(1, "yes")]


def test_the_path_leads_from_the_outermost_heading() -> None:
    text = "before\n# A\n## B\n#### C\n## D\n# E\n"
    outline = Outline(headings(text))
    paths = {name: outline.path(text.index(name)) for name in "ABCDE"}
    assert outline.path(0) == []
    assert paths == {"A": ["A"], "B": ["A", "B"], "C": ["A", "B", "C"], "D": ["A", "D"], "E": ["E"]}


def test_the_title_is_that_of_the_front_matter_or_the_highest_heading() -> None:
    for text, name in (
        ('---\ntags: x\ntitle: "Mine"\n---\n# Other', "Mine"),
        ("## second\n# First\n# Next", "First"),
    ):
        assert title(text, headings(text)) == name
    assert title("text", []) == ""


@pytest.mark.parametrize(
    "piece", ["`", "#", "-", "=\n", "> ", "[", "\n", "a\n-\n", "```\n", "~~~a\n"]
)
@pytest.mark.timeout(5)
def test_no_text_takes_long(piece: str) -> None:
    headings(piece * 300_000)
