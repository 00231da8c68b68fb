"""What becomes of messages and documents behind: found by meaning, named, linked, titled, summed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import FAKE, LiveServer, eventually, fake_models

SAID = {
    "soup": "How do I boil carrots for a soup?",
    "rings": "Which planet has the largest rings?",
    "train": "What is the fastest train in Japan?",
}


def live(place: Path, **settings: Any) -> LiveServer:
    return LiveServer(place, extra=fake_models(), embedding_model="tabagent/embed", **settings)


def say(server: LiveServer, session: str, text: str) -> dict[str, Any]:
    server.owner.post("/v1/sessions", json={"id": session})
    response = server.chat(text, session_id=session)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def search(server: LiveServer, query: str, **more: Any) -> dict[str, Any]:
    response = server.client.get("/v1/sessions/search", params={"query": query, **more})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def all_read(server: LiveServer) -> bool:
    return bool(search(server, "anything", mode="meaning")["not_yet_by_meaning"] == 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live(tmp_path_factory.mktemp("memory")) as made:
        for session, text in SAID.items():
            say(made, session, text)
        eventually(lambda: all_read(made), 20)
        yield made


def test_messages_are_found_by_what_they_mean(server: LiveServer) -> None:
    found = search(server, "cooking vegetables", mode="meaning")
    assert found["data"][0]["message"]["content"] == SAID["soup"]
    assert found["data"][0]["matched"] == ["meaning"]
    both = search(server, "boil soup")["data"][0]
    assert (both["message"]["session_id"], both["matched"]) == ("soup", ["words", "meaning"])
    assert both["session_title"]
    only = search(server, "cooking vegetables", session_id="train")["data"]
    assert {row["message"]["session_id"] for row in only} == {"train"}


def test_what_belongs_together_is_told_with_the_reason(server: LiveServer) -> None:
    document = {
        "source": "recipe",
        "markdown": "# Soup\n\nBoil two carrots for an hour for a soup.",
    }
    assert server.owner.post("/v1/rag/documents", json={"documents": [document]}).status_code == 200
    message = search(server, "boil soup")["data"][0]["message"]["id"]
    path = f"/v1/related/message/{message}"
    related = server.client.get(path, params={"min_similarity": 0.3}).json()["data"]
    assert (related[0]["kind"], related[0]["title"]) == ("document", "Soup")
    assert related[0]["reasons"][0]["type"] == "similar"
    assert related[0]["reasons"][0]["similarity"] > 0.5
    back = server.client.get(
        f"/v1/related/document/{related[0]['id']}", params={"min_similarity": 0.3}
    ).json()["data"]
    assert message in [row["id"] for row in back]
    assert related[0]["id"] not in [row["id"] for row in back]
    for kind in ("document", "message"):
        problem = server.client.get(f"/v1/related/{kind}/none")
        assert problem.status_code == 404, problem.text


def test_a_session_that_goes_is_found_no_more(server: LiveServer) -> None:
    say(server, "gone", "Where do penguins sleep in winter?")
    eventually(lambda: all_read(server), 20)
    assert (
        search(server, "birds of Antarctica", mode="meaning")["data"][0]["message"]["session_id"]
        == "gone"
    )
    assert server.owner.delete("/v1/sessions/gone").status_code == 200
    rest = search(server, "birds of Antarctica", mode="meaning")["data"]
    assert "gone" not in {row["message"]["session_id"] for row in rest}


def test_the_chat_model_titles_a_session_and_a_person_goes_before_it(server: LiveServer) -> None:
    def title(session: str) -> tuple[str, str]:
        found = server.client.get(f"/v1/sessions/{session}").json()
        return found["title"], found["title_by"]

    eventually(lambda: title("soup")[1] == "model", 20)
    server.owner.post("/v1/sessions", json={"id": "own", "title": "Mine"})
    server.chat("3", session_id="own")
    say(server, "later", "4")
    eventually(lambda: title("later")[1] == "model", 20)
    assert title("own") == ("Mine", "user")


def test_each_part_can_be_switched_off_and_is_caught_up_with_later(tmp_path: Path) -> None:
    off = {f"memory_{part}": False for part in ("vectors", "titles", "summaries", "entities")}
    with live(tmp_path, **off) as server:
        say(server, "soup", SAID["soup"])
        assert search(server, "carrots")["modes"] == ["words"]
        refused = server.client.get("/v1/sessions/search", params={"query": "x", "mode": "meaning"})
        assert refused.status_code == 400
        assert server.client.get("/v1/sessions/soup").json()["title_by"] == "words"
    with live(tmp_path) as server:
        eventually(lambda: all_read(server), 20)
        found = search(server, "cooking vegetables", mode="meaning")["data"]
        assert found[0]["message"]["content"] == SAID["soup"]


def test_another_embedding_model_reads_all_messages_anew(tmp_path: Path) -> None:
    with live(tmp_path) as server:
        for session, text in SAID.items():
            say(server, session, text)
        eventually(lambda: all_read(server), 20)
    with LiveServer(tmp_path, extra=fake_models(), embedding_model="fake/embedder") as server:
        server.chat("1", session_id="soup")
        found = eventually(lambda: search(server, SAID["train"], mode="meaning")["data"], 20)
        eventually(lambda: all_read(server), 20)
        found = search(server, SAID["train"], mode="meaning")["data"]
        assert found[0]["message"]["content"] == SAID["train"]


def test_a_long_session_is_summed_up_and_the_model_is_told_what_it_cannot_read(
    tmp_path: Path,
) -> None:
    with live(tmp_path, n_ctx=512) as server:
        server.owner.post("/v1/sessions", json={"id": "long", "title": "Long"})
        for number in range(44):
            body = {"role": "user" if number % 2 == 0 else "assistant", "model": FAKE}
            body["content"] = f"number {number + 3} of many words that fill a context quickly"
            saved = server.owner.post("/v1/sessions/long/messages", json=body)
            assert saved.status_code == 200, saved.text
        summary = eventually(lambda: server.client.get("/v1/sessions/long").json()["summary"], 20)
        told = server.chat("report", session_id="long").json()
        assert told["session"]["omitted_messages"] > 0
        assert told["session"]["summarised"] is True
        assert summary in told["choices"][0]["message"]["content"]


def test_names_that_two_share_link_them(tmp_path: Path) -> None:
    with live(tmp_path, memory_vectors=False) as server:
        for session in ("a", "b"):
            say(server, session, "Ada Lovelace")
        messages = {
            session: server.client.get(f"/v1/sessions/{session}/history").json()["data"][-1]["id"]
            for session in ("a", "b")
        }

        def linked() -> list[dict[str, Any]]:
            path = f"/v1/related/message/{messages['a']}"
            rows = server.client.get(path).json()["data"]
            return [row for row in rows if row["id"] == messages["b"]]

        (row,) = eventually(linked, 20)
        assert {reason["type"] for reason in row["reasons"]} == {"names"}
        assert all(reason["name"] and reason["named_by"] >= 2 for reason in row["reasons"])
