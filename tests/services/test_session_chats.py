"""Chats and responses inside a session: what is loaded, what is kept, whatever happens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.live import FAKE, LiveServer, chat_body, eventually, fake_models
from tests.services.test_sessions import QUIET, create, history, ok, refused, say, told

PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    place = tmp_path_factory.mktemp("chats")
    with LiveServer(place, extra=fake_models(), **QUIET) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as made:
        yield made


def rows(server: LiveServer, id_: str, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = history(server, id_, order="oldest", limit=500, **asked)["data"]
    return found


def chat(server: LiveServer, id_: str, text: str, **more: Any) -> Any:
    return ok(server.chat(text, session_id=id_, **more))


def asked(server: LiveServer, id_: str, **more: Any) -> list[dict[str, Any]]:
    """What the model is asked in the next turn, as it reports it; the last message is `report`."""
    answer = chat(server, id_, "report", **more)["choices"][0]["message"]["content"]
    found: list[dict[str, Any]] = json.loads(answer)["messages"]
    return found


def last(server: LiveServer, id_: str) -> dict[str, Any]:
    return rows(server, id_)[-1]


def settled(server: LiveServer, id_: str) -> dict[str, Any]:
    eventually(lambda: last(server, id_)["status"] != "pending")
    return last(server, id_)


# ---- going on -----------------------------------------------------------------------------------
def test_a_chat_goes_on_and_says_where_it_is_kept(
    server: LiveServer, client: openai.OpenAI
) -> None:
    id_ = create(server, system="be brief")["id"]
    messages: Any = [{"role": "user", "content": "2 think"}]
    first = client.chat.completions.create(
        model=FAKE, messages=messages, extra_body={"session_id": id_}
    )
    note: Any = first.to_dict()["session"]
    kept = rows(server, id_)
    assert [(m["role"], m["content"], m["status"]) for m in kept] == [
        ("user", "2 think", "complete"),
        ("assistant", "1 2 ", "complete"),
    ]
    assert note == {
        "id": id_, "branch": kept[0]["branch"], "message_ids": [kept[0]["id"]],
        "answer_id": kept[1]["id"], "history_messages": 0, "omitted_messages": 0,
        "unread_parts": 0, "summarised": False,
    }  # fmt: skip
    answer = kept[1]
    assert (answer["reasoning_content"], answer["model"]) == ("hm hm hm ", FAKE)
    assert answer["finish_reason"] == "stop"
    assert first.usage is not None
    assert answer["usage"] == first.usage.to_dict()
    assert asked(server, id_) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "2 think"},
        {"role": "assistant", "content": "1 2 ", "reasoning_content": "hm hm hm "},
        {"role": "user", "content": "report"},
    ]
    assert ok(server.client.get(f"/v1/sessions/{id_}"))["title"] == "2 think"


def test_the_first_chunk_of_a_stream_says_it_and_no_other(
    server: LiveServer, client: openai.OpenAI
) -> None:
    id_ = create(server)["id"]
    messages: Any = [{"role": "user", "content": "3"}]
    chunks = list(
        client.chat.completions.create(
            model=FAKE, messages=messages, stream=True, extra_body={"session_id": id_}
        )
    )
    notes = [chunk.to_dict().get("session") for chunk in chunks]
    note: Any = notes[0]
    assert notes[1:] == [None] * (len(notes) - 1)
    assert [note["message_ids"], [note["answer_id"]]] == [
        [rows(server, id_)[0]["id"]],
        [rows(server, id_)[1]["id"]],
    ]
    assert told(server, id_) == ["3", "1 2 3 "]
    plain = server.chat("3").json()
    assert "session" not in plain


def test_a_session_names_the_model_of_requests_that_name_none(server: LiveServer) -> None:
    id_ = create(server, model=FAKE)["id"]
    assert ok(server.chat("2", None, session_id=id_))["model"] == FAKE
    nameless = create(server, model="no/such")["id"]
    refused(server.chat("2", None, session_id=nameless), 404, "model-not-found")
    assert told(server, nameless) == []


def test_tools_are_called_answered_and_shown_again(server: LiveServer) -> None:
    id_ = create(server)["id"]
    first = chat(server, id_, "7 call", tools=[ADD])["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    call = first["message"]["tool_calls"][0]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "42"}
    body = {"model": FAKE, "session_id": id_, "messages": [result], "tools": [ADD]}
    end = ok(server.client.post("/v1/chat/completions", json=body))
    assert end["choices"][0]["message"]["content"] == "it is 42"
    seen = asked(server, id_, tools=[ADD], tool_choice="none")
    assert [m["role"] for m in seen] == ["user", "assistant", "tool", "assistant", "user"]
    assert seen[1]["tool_calls"] == [call]
    assert seen[2] == {"role": "tool", "content": "42", "tool_call_id": call["id"]}
    kept = rows(server, id_)
    assert (kept[1]["tool_calls"], kept[1]["content"]) == ([call], None)
    assert kept[2]["tool_call_id"] == call["id"]


def test_an_edit_forks_and_is_asked_with_what_came_before_it(server: LiveServer) -> None:
    id_ = create(server)["id"]
    for text in ("1", "2", "3"):
        chat(server, id_, text)
    before = rows(server, id_)
    second = chat(server, id_, "report", replace_message_id=before[2]["id"])
    seen = json.loads(second["choices"][0]["message"]["content"])["messages"]
    assert [m["content"] for m in seen] == ["1", "1 ", "report"]
    assert second["session"]["branch"] != before[0]["branch"]
    assert told(server, id_)[:3] == ["1", "1 ", "report"]
    assert told(server, id_, branch=before[0]["branch"]) == ["1", "1 ", "2", "1 2 ", "3", "1 2 3 "]
    back = chat(server, id_, "4", branch=before[0]["branch"])
    assert back["session"]["history_messages"] == 6


@pytest.mark.parametrize("which", ["answer", "question"])
def test_a_question_is_answered_again_by_either(server: LiveServer, which: str) -> None:
    id_ = create(server)["id"]
    chat(server, id_, "1")
    chat(server, id_, "2")
    before = rows(server, id_)
    body = {
        "model": FAKE, "session_id": id_, "messages": [],
        "replace_message_id": before[3 if which == "answer" else 2]["id"],
    }  # fmt: skip
    again = ok(server.client.post("/v1/chat/completions", json=body))
    assert again["choices"][0]["message"]["content"] == "1 2 "
    after = rows(server, id_)
    assert [m["content"] for m in after] == ["1", "1 ", "2", "1 2 "]
    assert after[2]["id"] == before[2]["id"]
    assert after[3]["id"] == again["session"]["answer_id"] != before[3]["id"]
    assert again["session"]["message_ids"] == []


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"session_id": "sess_none"}, 404, "session-not-found"),
        ({"branch": "br_none"}, 404, "session-not-found"),
        ({"replace_message_id": "msg_none"}, 404, "not-found"),
        ({"replace_message_id": "msg_none", "messages": []}, 404, "not-found"),
        ({"messages": []}, 400, "invalid-request"),
        ({"n": 2}, 400, "invalid-request"),
        ({"branch": "a", "replace_message_id": "b"}, 400, "invalid-request"),
        ({"session_id": None, "branch": "a"}, 400, "invalid-request"),
    ],
)
def test_a_session_that_cannot_be_gone_on_with_is_refused_and_nothing_is_saved(
    server: LiveServer, more: dict[str, Any], status: int, code: str
) -> None:
    id_ = create(server)["id"]
    body = chat_body("1", FAKE, **({"session_id": id_} | more))
    refused(server.client.post("/v1/chat/completions", json=body), status, code)
    assert told(server, id_) == []


# ---- what fits ----------------------------------------------------------------------------------
def test_what_does_not_fit_is_left_out_and_said_and_pinned_stays(server: LiveServer) -> None:
    """The fake engine counts bytes, and has 4096 of them."""
    id_ = create(server, system="be brief")["id"]
    say(server, id_, "the pinned one", pinned=True)
    say(server, id_, "so it is", "assistant")
    for n in range(60):
        say(server, id_, f"q{n} " + "x" * 100)
        say(server, id_, f"a{n} " + "x" * 100, "assistant")
    first = chat(server, id_, "2")["session"]
    assert first["history_messages"] + first["omitted_messages"] == 122
    assert 15 < first["history_messages"] < 40
    seen = asked(server, id_)
    assert seen[0] == {"role": "system", "content": "be brief"}
    assert "the pinned one" in seen[1]["content"]
    assert [m["content"] for m in seen[-3:]] == ["2", "1 2 ", "report"]
    kept = [m["content"].split()[0] for m in seen[2:-3]]
    wanted = [f"{kind}{n}" for n in range(60) for kind in "qa"]
    assert kept == wanted[-len(kept) :]
    assert sum(len(m["content"]) for m in seen) < 4096 * 3 / 4
    assert told(server, id_)[0] == "the pinned one"
    refused(server.chat("x" * 5000, session_id=id_), 400, "context-length-exceeded")
    assert settled(server, id_)["finish_reason"] == "context-length-exceeded"
    assert chat(server, id_, "2")["session"]["omitted_messages"] > 80


def test_a_long_session_is_gone_on_with(server: LiveServer) -> None:
    messages = [
        {"role": "assistant" if n % 2 else "user", "content": f"{n} " + "word " * 60}
        for n in range(2000)
    ]
    data = {"tabagent_session": 1, "messages": messages}
    id_ = ok(server.client.post("/v1/sessions/import", json={"data": data}))["id"]
    note = chat(server, id_, "2")["session"]
    assert note["history_messages"] + note["omitted_messages"] == 2000
    assert note["history_messages"] > 4


def test_an_image_is_kept_and_the_model_is_told_that_it_is_there(server: LiveServer) -> None:
    id_ = create(server)["id"]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    say(server, id_, [{"type": "text", "text": "see "}, image])
    say(server, id_, "I see", "assistant")
    answer = chat(server, id_, "report")
    assert answer["session"]["unread_parts"] == 1
    seen = json.loads(answer["choices"][0]["message"]["content"])["messages"]
    assert seen[0] == {"role": "user", "content": "see [image_url]"}


# ---- responses ----------------------------------------------------------------------------------
def test_a_response_takes_place_in_a_session(server: LiveServer, client: openai.OpenAI) -> None:
    id_ = create(server, system="be brief")["id"]
    first = client.responses.create(
        model=FAKE, input="2 think", instructions="now", extra_body={"session_id": id_}
    )
    note: Any = first.to_dict()["session"]
    assert (note["id"], note["history_messages"]) == (id_, 0)
    answer = last(server, id_)
    assert (answer["content"], answer["reasoning_content"]) == ("1 2 ", "hm hm hm ")
    assert (answer["id"], answer["status"]) == (note["answer_id"], "complete")
    chat(server, id_, "3")
    second = client.responses.create(model=FAKE, input="report", extra_body={"session_id": id_})
    seen = json.loads(second.output_text)["messages"]
    assert [m["content"] for m in seen] == [
        "be brief", "2 think", "1 2 ", "3", "1 2 3 ", "report",
    ]  # fmt: skip
    events = list(
        client.responses.create(model=FAKE, input="2", stream=True, extra_body={"session_id": id_})
    )
    created: Any = events[0].to_dict()
    assert created["response"]["session"]["id"] == id_
    # Gone on from by the response's own id: after it, and that forks.
    on = client.responses.create(model=FAKE, input="report", previous_response_id=first.id)
    seen = json.loads(on.output_text)["messages"]
    assert [m["content"] for m in seen] == ["2 think", "1 2 ", "report"]


def test_a_response_in_a_session_is_refused_what_does_not_go_with_one(
    server: LiveServer,
) -> None:
    id_ = create(server)["id"]
    for more in ({"previous_response_id": "resp_1"}, {"store": False}):
        body = {"model": FAKE, "input": "1", "session_id": id_} | more
        refused(server.client.post("/v1/responses", json=body), 400, "invalid-request")
    body = {"model": FAKE, "input": "1", "session_id": "sess_none"}
    refused(server.client.post("/v1/responses", json=body), 404, "session-not-found")


def test_a_response_that_is_cut_off_is_kept_as_far_as_it_came(server: LiveServer) -> None:
    id_ = create(server)["id"]
    body = {"model": FAKE, "input": "1000 sleep", "stream": True, "session_id": id_}
    with server.client.stream("POST", "/v1/responses", json=body) as response:
        for line in response.iter_lines():
            if '"delta":"3 "' in line:
                break
    answer = settled(server, id_)
    assert (answer["status"], answer["finish_reason"]) == ("partial", "cancelled")
    assert answer["content"].startswith("1 2 3 ")


def test_many_responses_at_once_are_kept_while_old_ones_are_forgotten(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models(), kept_responses=3, **QUIET) as server:
        codes: list[int] = []

        def ask() -> None:
            for _ in range(8):
                body = {"model": FAKE, "input": "1"}
                codes.append(server.client.post("/v1/responses", json=body).status_code)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert codes == [200] * 48
