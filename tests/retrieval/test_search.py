"""What a search finds first, and what strange questions do to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live import LiveServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One document first and alone; then many, that use the words of every question."""
    with LiveServer(tmp_path_factory.mktemp("search")) as made:
        add(made, {"source": "soup", "text": "Boil two carrots for an hour."})
        add(made, {"source": "bread", "text": "Bread is baked; 東京都の人口は多い。"})
        add(
            made,
            *(
                {"source": f"other {n}", "text": f"How to do {n} of the things that are long to do"}
                for n in range(60)
            ),
        )
        yield made


def add(server: LiveServer, *documents: dict[str, str]) -> None:
    added = server.owner.post("/v1/rag/documents", json={"documents": documents})
    assert added.json()["counts"] == {"added": len(documents)}, added.text


def search(server: LiveServer, query: str, mode: str = "hybrid") -> list[str]:
    body = {"query": query, "mode": mode, "answer": False}
    response = server.owner.post("/v1/rag/query", json=body)
    assert response.status_code == 200, response.text
    return [source["source"] for source in response.json()["sources"]]


@pytest.mark.parametrize("mode", ["words", "vector", "hybrid"])
def test_what_came_first_is_found_as_well_as_what_came_after(server: LiveServer, mode: str) -> None:
    """Each batch would have word scores of its own until the index is joined."""
    assert search(server, "how long to boil carrots", mode)[0] == "soup"


def test_words_are_found_in_scripts_without_spaces(server: LiveServer) -> None:
    assert search(server, "人口", "words") == ["bread"]
    assert search(server, "東京", "words") == ["bread"]


@pytest.mark.parametrize(
    "query",
    [
        "to be or not to be",
        "?!",
        '"quoted" AND (x',
        "carrots AND NOT boil",
        "ca*",
        "a" * 3000,
        "\\",
    ],
)
def test_a_question_is_words_and_never_a_language(server: LiveServer, query: str) -> None:
    search(server, query, "words")
    search(server, query)
