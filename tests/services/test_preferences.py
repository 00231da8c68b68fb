"""Saved defaults: what a silent request gets, what an explicit one keeps, and what survives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import EMBEDDER, FAKE, LiveServer, fake_model, fake_models

SETTINGS = "/v1/models/fake%2Fcounter/default/settings"
GUIDE = "tabagent/guide"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        yield server


def put(server: LiveServer, path: str, **body: Any) -> httpx.Response:
    return server.owner.put(path, json=body)


def tokens(server: LiveServer, model: str | None = FAKE, **more: Any) -> int:
    answer = server.chat("9", model, **more)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["completion_tokens"])


# ---- what counts --------------------------------------------------------------------------------


def test_a_silent_request_gets_what_was_saved_for_all_models(live: LiveServer) -> None:
    assert tokens(live) == 9
    assert put(live, "/v1/params", params={"max_tokens": 4}).status_code == 200
    assert tokens(live) == 4


def test_the_order_is_request_then_model_then_all_models(live: LiveServer) -> None:
    put(live, "/v1/params", params={"max_tokens": 4, "top_k": 7})
    put(live, SETTINGS, sampling={"max_tokens": 3})
    assert tokens(live) == 3
    assert tokens(live, max_tokens=2) == 2
    effective = live.client.get(SETTINGS).json()["effective"]
    assert effective == {
        "max_tokens": {"value": 3, "source": "model"},
        "top_k": {"value": 7, "source": "params"},
    }
    put(live, SETTINGS)  # nothing
    assert tokens(live) == 4


def test_every_operation_that_generates_is_filled(live: LiveServer) -> None:
    put(live, "/v1/params", params={"max_tokens": 4})
    whole = live.client.post("/v1/completions", json={"model": FAKE, "prompt": "9"}).json()
    assert whole["usage"]["completion_tokens"] == 4
    response = live.client.post("/v1/responses", json={"model": FAKE, "input": "9"}).json()
    assert response["usage"]["output_tokens"] == 4
    body = {"model": FAKE, "messages": [{"role": "user", "content": "9"}], "stream": True}
    with live.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        said = [
            json.loads(line[6:])["choices"][0]["delta"].get("content")
            for line in answer.iter_lines()
            if line.startswith("data: {")
        ]
    assert len([text for text in said if text]) == 4


def test_a_saved_temperature_reaches_the_engine(tmp_path: Path) -> None:
    """Greedy by default is repeatable where the built-in model's own temperature is not."""
    ask = {"max_tokens": 48, "logprobs": True}

    def draw(server: LiveServer) -> str:
        return server.answer("Tell me anything.", GUIDE, **ask)

    with LiveServer(tmp_path) as server:
        put(server, "/v1/params", params={"temperature": 2, "min_p": 0, "top_k": 0, "top_p": 1})
        assert len({draw(server) for _ in range(4)}) > 1
        put(server, "/v1/models/tabagent%2Fguide/default/settings", sampling={"temperature": 0})
        assert len({draw(server) for _ in range(3)}) == 1


def test_saved_load_settings_count_when_a_request_loads_the_model(live: LiveServer) -> None:
    put(live, SETTINGS, load={"n_ctx": 512, "slots": 2, "keep_alive": "1h", "pin": True})
    live.answer("3")
    row = live.loaded()
    assert (row["n_ctx"], row["slots"], row["pinned"]) == (512, 2, True)


def test_what_a_load_asks_for_goes_before_what_was_saved(live: LiveServer) -> None:
    put(live, SETTINGS, load={"n_ctx": 512, "slots": 2})
    row = live.owner.post("/v1/models/load", json={"model": FAKE, "slots": 3}).json()
    assert (row["n_ctx"], row["slots"]) == (512, 3)


def test_a_loaded_model_is_as_saved_from_the_next_load_on(live: LiveServer) -> None:
    live.answer("3")
    saved = put(live, SETTINGS, load={"n_ctx": 512}).json()
    assert saved["reload_needed"] is True
    assert live.loaded()["n_ctx"] != 512
    live.owner.post("/v1/models/load", json={"model": FAKE, "force_reload": True})
    assert live.loaded()["n_ctx"] == 512
    assert live.client.get(SETTINGS).json()["reload_needed"] is False


def test_saved_settings_that_cannot_be_honoured_are_named(live: LiveServer) -> None:
    put(live, SETTINGS, load={"device": "cuda"})
    refused = live.chat("3")
    assert refused.status_code == 501
    assert "device of this model's saved settings" in refused.json()["detail"]
    assert live.owner.post("/v1/models/load", json={"model": FAKE, "device": "cpu"}).is_success


# ---- what is kept -------------------------------------------------------------------------------


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        put(server, "/v1/params", params={"max_tokens": 4, "temperature": 0.5})
        put(server, SETTINGS, sampling={"seed": 7}, load={"n_ctx": 512, "draft_model": None})
        server.owner.post("/v1/models/select", json={"model": FAKE})
        before = [server.client.get(path).json() for path in ("/v1/params", SETTINGS)]
    with LiveServer(tmp_path, extra=fake_models()) as server:
        assert [server.client.get(path).json() for path in ("/v1/params", SETTINGS)] == before
        assert before[0]["params"]["temperature"] == 0.5
        assert tokens(server, None) == 4
        assert server.loaded()["n_ctx"] == 512


def test_of_many_who_save_at_once_one_wins_whole(live: LiveServer, tmp_path: Path) -> None:
    def save(number: int) -> int:
        values = {"max_tokens": number, "top_k": number, "seed": number}
        return put(live, "/v1/params", params=values).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(save, range(1, 41))) == {200}
    kept = live.client.get("/v1/params").json()["params"]
    assert kept["max_tokens"] == kept["top_k"] == kept["seed"]
    live.stop()
    with LiveServer(tmp_path) as again:
        assert again.client.get("/v1/params").json()["params"] == kept


def test_settings_are_kept_for_models_that_are_not_here(live: LiveServer) -> None:
    path = "/v1/models/maker%2Fmodel/Q4_K_M/settings"
    saved = put(live, path, sampling={"temperature": 0.1}).json()
    assert (saved["model"], saved["on_disk"]) == ("maker/model:Q4_K_M", False)
    assert live.client.get(path).json()["sampling"]["temperature"] == 0.1


def test_all_that_is_known_is_registered_with_what_to_pull(live: LiveServer) -> None:
    put(live, "/v1/models/maker%2Fmodel/Q4_K_M/settings", sampling={"temperature": 0.1})
    put(live, SETTINGS, sampling={"temperature": 0.1})
    rows = {row["id"]: row for row in live.client.get("/v1/models/registered").json()["data"]}
    assert rows[FAKE]["known_from"] == ["disk", "settings"]
    assert (rows[FAKE]["on_disk"], rows[FAKE]["pull"]) == (True, None)
    missing = rows["maker/model:Q4_K_M"]
    assert (missing["on_disk"], missing["known_from"]) == (False, ["settings"])
    assert missing["pull"] == "maker/model:Q4_K_M"
    others = [row for row in rows.values() if row["known_from"] == ["recommended"]]
    assert len(others) > 20
    assert all(row["pull"] == row["id"] and row["size_bytes"] > 0 for row in others)


def test_followers_are_told_of_what_is_saved(live: LiveServer) -> None:
    put(live, "/v1/params", params={"max_tokens": 4})
    put(live, SETTINGS, load={"n_ctx": 512})
    live.owner.post("/v1/models/select", json={"model": FAKE})
    rows = live.client.get("/v1/events", params={"from": 1, "stream": "false"}).json()["data"]
    assert [row["data"] for row in rows] == [
        {"name": "params", "value": {"max_tokens": 4}},
        {
            "name": "inference_settings",
            "value": {"model": FAKE, "sampling": {}, "load": {"n_ctx": 512}},
        },
        {"name": "selected_model", "value": FAKE},
    ]


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/params", {"params": {"temperature": 3}}, "/params/temperature"),
        ("/v1/params", {"params": {"warmth": 1}}, "/params/warmth"),
        ("/v1/params", {"params": {"logit_bias": {"5": 1}}}, "/params/logit_bias"),
        ("/v1/params", {"temperature": 0.1}, "/params"),
        (SETTINGS, {"load": {"n_ctx": 1}}, "/load/n_ctx"),
        (SETTINGS, {"load": {"force_reload": True}}, "/load/force_reload"),
        ("/v1/models/nothing/default/settings", {}, "/repo_id"),
        ("/v1/models/..%2F../default/settings", {}, "/repo_id"),
    ],
)
def test_nonsense_is_refused_and_nothing_is_saved(
    live: LiveServer, path: str, body: dict[str, Any], pointer: str
) -> None:
    refused = put(live, path, **body)
    assert 400 <= refused.status_code < 500
    assert pointer in [fault["pointer"] for fault in refused.json()["errors"]]
    assert not (live.settings.data_dir / "tabagent.db").exists()


def test_a_draft_model_that_is_not_here_is_refused(live: LiveServer) -> None:
    refused = put(live, SETTINGS, load={"draft_model": "no/such"})
    assert refused.json()["code"] == "model-not-found"


def test_a_draft_model_that_went_is_named_when_its_model_is_loaded(tmp_path: Path) -> None:
    with LiveServer(tmp_path, extra=fake_models()) as server:
        put(server, SETTINGS, load={"draft_model": EMBEDDER})
    with LiveServer(tmp_path, extra=[fake_model()]) as server:
        assert server.client.get(SETTINGS).json()["load"]["draft_model"] == EMBEDDER
        refused = server.chat("3").json()
        assert refused["code"] == "model-not-found"
        assert "saved settings of fake/counter name fake/embedder" in refused["detail"]
        put(server, SETTINGS)
        assert server.answer("3")


# ---- the selected model -------------------------------------------------------------------------


def test_the_selected_model_answers_requests_that_name_none(live: LiveServer) -> None:
    chosen = live.owner.post("/v1/models/select", json={"model": "counter"}).json()
    assert chosen == {"model": FAKE}
    assert live.answer("3", None) == "1 2 3 "
    rows = live.client.get("/v1/models").json()["data"]
    assert [row["id"] for row in rows if row["selected"]] == [FAKE]
    assert live.owner.post("/v1/models/select", json={"model": None}).json() == {"model": GUIDE}


@pytest.mark.parametrize(
    ("model", "code"),
    [("no/such", "model-not-found"), (EMBEDDER, "wrong-model-task"), (7, "invalid-request")],
)
def test_only_a_model_that_can_answer_is_selected(live: LiveServer, model: Any, code: str) -> None:
    refused = live.owner.post("/v1/models/select", json={"model": model})
    assert refused.json()["code"] == code
    assert live.client.get(f"/v1/models/{GUIDE}").json()["selected"]


def test_what_the_operator_fixed_cannot_be_selected_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABAGENT_MODEL", FAKE)
    with LiveServer(tmp_path, extra=fake_models()) as server:
        refused = server.owner.post("/v1/models/select", json={"model": GUIDE})
        assert refused.status_code == 409
        assert "TABAGENT_MODEL" in refused.json()["detail"]


def test_a_broken_model_is_not_selected(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF and no more")
    with LiveServer(tmp_path, extra=[fake_model()]) as server:
        refused = server.owner.post("/v1/models/select", json={"model": "local/broken"})
        assert refused.json()["code"] == "model-corrupt"
