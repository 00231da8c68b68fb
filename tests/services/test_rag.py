"""Questions to documents: what is found, and what a model answers from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabagent.catalog.models import EMBEDDER as EMBED
from tests.live import EMBEDDER, FAKE, RERANKER, LiveServer, fake_models
from tests.retrieval.asking import (
    BREAD,
    MOON,
    QUERY,
    SOUP,
    added,
    events,
    found,
    listed,
    make,
    many,
    problem,
    query,
    taken,
    text,
)

INJECTED = [
    "' OR 1=1 --",
    "x') OR (1=1",
    '"; DROP TABLE documents; --',
    "\\",
    "\\'",
    "%",
    "_",
    "soup' OR owner LIKE '%",
    "\N{RIGHT-TO-LEFT OVERRIDE}soup",
    "soup\x00",
    "’",
    "null",
    "*",
    "`owner`",
]
NOT_THERE = "This is not in the sources."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Three documents in the real embedder's vectors, and some in the fake's."""
    with LiveServer(tmp_path_factory.mktemp("rag"), extra=fake_models()) as live:
        make(live, "real", model=EMBED)
        make(live, "other", model=EMBEDDER)
        page = f"<html><head><title>Moon</title></head><body><h1>Moon</h1><p>{MOON[8:]}</p></body></html>"
        taken(
            live,
            text("soup", SOUP, tags=["warm", "o'clock", "50%"]),
            text("bread", BREAD, tags=["warm", "a_b"]),
            {"url": "https://moon.example:8443/x", "html": page, "metadata": {"by": "me"}},
            collection="real",
        )
        taken(live, text("tea", "# Tea\n\nSteep green tea and report."), collection="other")
        yield live


def ask(server: LiveServer, said: str, **more: Any) -> dict[str, Any]:
    body = {"query": said, "model": FAKE, "collections": ["real"], **more}
    reply = server.client.post(QUERY, json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def real(server: LiveServer, said: str, **more: Any) -> list[str]:
    return found(server, said, collections=["real"], **more)


# ---- finding ------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["hybrid", "vector", "words"])
def test_each_way_of_searching_finds_what_is_meant(server: LiveServer, mode: str) -> None:
    for said, best in (
        ("boil carrots", "soup"),
        ("bake rye dough", "bread"),
        ("astronauts in July", "https://moon.example:8443/x"),
    ):
        assert real(server, said, mode=mode)[0] == best


def test_meaning_is_found_without_the_words_and_words_without_meaning(server: LiveServer) -> None:
    assert real(server, "making food from wheat flour", mode="vector")[0] == "bread"
    assert real(server, "zzz tranquility", mode="words") == ["https://moon.example:8443/x"]
    assert real(server, "zzz", mode="words") == []
    assert real(server, "?!", mode="words") == []
    assert len(real(server, "zzz")) == 3  # something is always nearest


def test_a_source_says_where_it_stands_and_how_it_was_found(server: LiveServer) -> None:
    reply = query(server, "astronauts", collections=["real"], top_k=1).json()
    (hit,) = reply["sources"]
    assert (reply["query"], reply["found"], reply["answer"]) == ("astronauts", True, None)
    assert (hit["number"], hit["collection"], hit["chunk"]) == (1, "real", 0)
    assert (hit["title"], hit["metadata"], hit["tags"]) == ("Moon", {"by": "me"}, [])
    assert hit["url"] == hit["source"] == "https://moon.example:8443/x"
    whole = server.client.get(f"/v1/rag/documents/{hit['document_id']}").json()
    assert whole["text"][hit["start"] : hit["end"]] == hit["text"]
    assert 0 < hit["similarity"] < 1 and hit["words_score"] > 0
    only = query(server, "astronauts", collections=["real"], mode="words").json()["sources"][0]
    assert only["similarity"] is None


@pytest.mark.parametrize("count", [1, 2, 100])
def test_as_many_as_are_wanted_come_the_best_first(server: LiveServer, count: int) -> None:
    reply = query(server, "carrots", collections=["real"], top_k=count).json()["sources"]
    assert len(reply) == min(count, 3)
    assert [hit["number"] for hit in reply] == list(range(1, len(reply) + 1))
    scores = [hit["score"] for hit in reply]
    assert scores == sorted(scores, reverse=True)


def test_filters_are_kept_to(server: LiveServer) -> None:
    row = listed(server, "real")["bread"]
    kept = [
        ({"document_ids": [row["id"]]}, {"bread"}),
        ({"kinds": ["html"]}, {"https://moon.example:8443/x"}),
        ({"kinds": ["markdown", "pdf"]}, {"soup", "bread"}),
        ({"hosts": ["MOON.example"]}, {"https://moon.example:8443/x"}),
        ({"tags": ["warm"]}, {"soup", "bread"}),
        ({"tags": ["warm", "50%"]}, {"soup"}),
        ({"tags": ["o'clock"]}, {"soup"}),
        ({"tags": ["war"]}, set()),
        ({"tags": ["a_b"]}, {"bread"}),
        ({"tags": ["aXb"]}, set()),
        ({"tags": ["5%"]}, set()),
        ({"created_after": "2020-01-01T00:00:00Z"}, {"soup", "bread", "https://moon.example:8443/x"}),
        ({"created_before": "2020-01-01T00:00:00Z"}, set()),
        ({"updated_after": row["updated_at"], "kinds": ["pdf"]}, set()),
        ({"kinds": ["markdown"], "tags": ["a_b"], "document_ids": [row["id"], "x"]}, {"bread"}),
    ]  # fmt: skip
    for wanted, expected in kept:
        for mode in ("hybrid", "vector", "words"):
            got = real(server, "boil dough astronauts", filter=wanted, mode=mode)
            assert set(got) == expected, (wanted, mode)


@pytest.mark.parametrize("said", INJECTED)
def test_what_looks_like_sql_is_compared_and_nothing_else(server: LiveServer, said: str) -> None:
    for name in ("document_ids", "kinds", "hosts", "tags"):
        for mode in ("vector", "words"):
            reply = query(server, "boil", collections=["real"], mode=mode, filter={name: [said]})
            if reply.status_code == 400:  # no tag has a NUL
                assert "\x00" in said
            else:
                assert reply.json()["sources"] == [], (name, reply.text)
    for mode in ("hybrid", "words", "vector"):
        assert query(server, said, collections=["real"], mode=mode).status_code == 200
    assert len(listed(server, "real")) == 3


def test_a_least_score_leaves_out_what_is_unlike(server: LiveServer) -> None:
    all_ = query(server, "boil carrots for soup", collections=["real"]).json()["sources"]
    best = max(hit["similarity"] for hit in all_)
    for mode in ("hybrid", "vector", "words"):
        assert real(server, "boil carrots for soup", min_score=best - 0.01, mode=mode) == ["soup"]
    none = query(server, "boil carrots", collections=["real"], min_score=0.999).json()
    assert (none["sources"], none["found"]) == ([], False)


def test_a_rerank_model_has_the_last_word(server: LiveServer) -> None:
    # The fake one counts the words that a text has in common with the question.
    said = "in the oven. hour."
    reply = query(server, said, collections=["real"], rerank=True).json()["sources"]
    assert reply[0]["source"] == "bread"
    scores = [hit["rerank_score"] for hit in reply]
    assert scores == sorted(scores, reverse=True)
    assert [hit["score"] for hit in reply] == scores
    assert real(server, said, rerank=RERANKER, min_score=0.6) == ["bread"]
    assert real(server, said, rerank=RERANKER, min_score=2) == []
    problem(query(server, said, rerank=FAKE, collections=["real"]), "wrong-model-task")
    problem(query(server, said, rerank="no/such", collections=["real"]), "model-not-found")


def test_several_collections_are_searched_together_each_in_its_models_vectors(
    server: LiveServer,
) -> None:
    for more in ({}, {"diversity": 0.7}, {"rerank": True}, {"min_score": 0.0}, {"mode": "words"}):
        got = found(server, "green tea and carrots", collections=["real", "other"], **more)
        assert {"tea", "soup"} <= set(got), more
    body = query(server, "tea", collections=["real", "real"])
    problem(body, "invalid-request")


def test_diversity_prefers_what_is_unlike(server: LiveServer) -> None:
    make(server, "twins", model=EMBED)
    twins = [text(f"t{n}", f"# Soup\n\nBoil two carrots for {n} hours.") for n in range(2, 5)]
    added(server, *twins, text("bread", BREAD), collection="twins")
    near = found(server, "boil carrots", collections=["twins"], top_k=2)
    assert "bread" not in near
    varied = found(server, "boil carrots", collections=["twins"], top_k=2, diversity=0.9)
    assert varied[1] == "bread"
    assert len(found(server, "boil", collections=["twins"], top_k=10, diversity=1)) == 4


@pytest.mark.parametrize(
    "more",
    [
        {"top_k": 0},
        {"top_k": 101},
        {"mode": "magic"},
        {"diversity": 2},
        {"filter": {"owner": ["x"]}},
        {"filter": {"kinds": "html"}},
        {"collections": []},
        {"min_score": -2},
        {"rewrite": True},
        {"session_id": "ses_1"},
        {"query": ""},
        {"tools": []},
    ],
)
def test_nonsense_is_refused(server: LiveServer, more: dict[str, Any]) -> None:
    reply = server.client.post(QUERY, json={"query": "x", "answer": False, **more})
    problem(reply, "invalid-request")


# ---- answering ----------------------------------------------------------------------------------
def reported(answer: dict[str, Any]) -> dict[str, Any]:
    """What the model was asked, as it reports it."""
    said: dict[str, Any] = json.loads(answer["answer"])
    return said


def test_the_model_gets_rules_first_then_sources_then_the_question(server: LiveServer) -> None:
    asked = reported(ask(server, "report carrots", top_k=2))
    rules, said = asked["messages"]
    assert (rules["role"], said["role"]) == ("system", "user")
    mark = rules["content"].partition("<source ")[2].partition(" ")[0]
    assert len(mark) == 12
    assert said["content"].count(f"<source {mark} number=") == 2
    assert said["content"].count(f"</source {mark}>") == 2
    assert SOUP in said["content"]
    assert said["content"].endswith("Question: report carrots")
    assert "tools" not in asked.get("dialogue", {})
    again = reported(ask(server, "report carrots", top_k=2))
    assert mark not in again["messages"][0]["content"]  # nobody can know the next one


def test_what_is_not_in_the_sources_is_said_to_be_so(server: LiveServer) -> None:
    answer = ask(server, "3 boil", min_score=0.999)
    assert (answer["answer"], answer["found"], answer["finish_reason"]) == (
        NOT_THERE,
        False,
        "stop",
    )
    assert (answer["sources"], answer["citations"], answer["usage"]) == ([], [], None)
    body = {
        "query": "x",
        "model": FAKE,
        "min_score": 0.999,
        "collections": ["real"],
        "stream": True,
    }
    with server.client.stream("POST", QUERY, json=body) as reply:
        told = list(events(reply))
    assert [name for name, _ in told] == ["retrieval", "delta", "done"]
    assert told[1][1]["text"] == NOT_THERE


def test_a_stream_begins_with_what_was_found_and_ends_with_all(server: LiveServer) -> None:
    body = {"query": "4 carrots", "model": FAKE, "collections": ["real"], "stream": True}
    with server.client.stream("POST", QUERY, json=body) as reply:
        told = list(events(reply))
    names = [name for name, _ in told]
    assert names == ["retrieval", *["delta"] * (len(names) - 2), "done"]
    assert all(data["type"] == name for name, data in told)
    last = told[-1][1]
    assert last["sources"] == told[0][1]["sources"] and len(last["sources"]) == 3
    assert last["answer"] == "".join(data["text"] for _, data in told[1:-1])
    assert (last["model"], last["finish_reason"], last["found"]) == (FAKE, "stop", True)
    assert last["usage"]["completion_tokens"] > 0 and last["timings"]
    plain = ask(server, "4 carrots")
    assert {k: v for k, v in last.items() if k not in ("type", "timings")} == {
        k: v for k, v in plain.items() if k != "timings"
    }


def test_an_answer_is_as_long_as_it_may_be(server: LiveServer) -> None:
    answer = ask(server, "carrots", max_tokens=2)
    assert (answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 2)


def test_passages_that_do_not_fit_are_left_out_the_worst_first(server: LiveServer) -> None:
    make(server, "long", model=EMBEDDER)
    added(
        server,
        *(text(f"l{n}", f"# Part {n}\n\n" + f"carrot{n} word " * 80) for n in range(20)),
        collection="long",
    )
    answer = ask(server, "report carrots", collections=["long"], top_k=20)
    assert len(answer["sources"]) == 20
    assert 0 < answer["omitted_sources"] < 20
    said = reported(answer)["messages"][-1]["content"]
    assert said.count("</source") == 20 - answer["omitted_sources"]
    assert f'number="{20 - answer["omitted_sources"]}"' in said


def test_the_builtin_model_answers_from_documents(guide: LiveServer) -> None:
    added(guide, text("soup", SOUP), text("bread", BREAD))
    body = {"query": "How long do carrots boil?", "max_tokens": 20}
    reply = guide.client.post(QUERY, json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["answer"]


# ---- sessions -----------------------------------------------------------------------------------
def session(server: LiveServer, **more: Any) -> str:
    made = server.client.post("/v1/sessions", json={"model": FAKE, **more})
    return str(made.json()["id"])


def history(server: LiveServer, id_: str) -> list[tuple[str, str]]:
    reply: httpx.Response = server.client.get(
        f"/v1/sessions/{id_}/history", params={"order": "oldest"}
    )
    return [(m["role"], m["content"]) for m in reply.json()["data"]]


def test_a_session_keeps_the_question_and_the_answer(server: LiveServer) -> None:
    id_ = session(server, system="Be brief.")
    first = ask(server, "2 carrots", session_id=id_)
    assert first["session"]["id"] == id_
    assert history(server, id_) == [("user", "2 carrots"), ("assistant", first["answer"])]
    none = ask(server, "nothing", session_id=id_, min_score=0.999)
    assert history(server, id_)[2:] == [("user", "nothing"), ("assistant", none["answer"])]
    messages = reported(ask(server, "report carrots", session_id=id_))["messages"]
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert messages[0]["content"].startswith("Be brief.\n\nAnswer the question from")
    assert messages[1]["content"] == "2 carrots"
    problem(
        server.client.post(QUERY, json={"query": "x", "session_id": "ses_none"}),
        "session-not-found",
    )


def test_a_follow_up_is_rewritten_with_what_was_said(server: LiveServer) -> None:
    id_ = session(server)
    plain = ask(server, "1 carrots", session_id=id_, rewrite=True)
    assert plain["query"] == "1 carrots"  # nothing was said before
    after = ask(server, "and with 3 potatoes?", session_id=id_, rewrite=True)
    # The fake model counts to the first number that it reads.
    assert after["query"] == "1"
    assert after["answer"]
    assert history(server, id_)[2][1] == "and with 3 potatoes?"
    report = ask(server, "report", session_id=id_, rewrite=True)
    asked = json.loads(report["query"])
    assert "Rewrite the last question" in asked["messages"][0]["content"]
    said = asked["messages"][1]["content"]
    assert said.startswith("user: 1 carrots\nassistant: ")
    assert "user: report\n" in said
    assert "tools" not in asked["dialogue"]


def test_what_fits_is_what_the_model_holds_as_it_is_loaded_also_at_the_first_question(
    tmp_path: Path,
) -> None:
    """Before that nobody knows: its file says what it was trained for."""
    with LiveServer(tmp_path, extra=fake_models(), n_ctx=1024) as live:
        taken(live, *many(20, "report " * 30))
        assert live.loaded(FAKE) == {}
        body = {"query": "report", "top_k": 20, "model": FAKE, "max_tokens": 64}
        first, again = (live.client.post(QUERY, json=body).json() for _ in range(2))
        assert 0 < again["omitted_sources"] < 20
        assert first["omitted_sources"] == again["omitted_sources"]
