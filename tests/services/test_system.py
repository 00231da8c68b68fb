"""Whether the server lives, and whether to send it work: two questions with two answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tabagent.errors import DatabaseBusy
from tabagent.stores import database as stores
from tabagent.stores.database import Database
from tests.bridge import NativeClient, approve
from tests.live import LiveServer, eventually, fake_models


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, extra=fake_models(), auth="always") as server:
        yield server


def code(server: LiveServer, path: str) -> tuple[int, str]:
    response = server.client.get(path)
    return response.status_code, response.json().get("code", "")


def test_a_new_server_lives_and_is_ready_and_nobody_needs_a_token(live: LiveServer) -> None:
    assert live.client.get("/health/live").json() == {"status": "ok"}
    assert live.client.get("/health/ready").json() == {"status": "ready"}
    approve(live)
    with NativeClient(live) as extension:
        assert extension.reply("ready")["data"] == {"status": "ready"}


def test_a_server_that_is_about_to_leave_lives_and_is_not_ready(live: LiveServer) -> None:
    live.gateway.dispatcher.draining = True
    assert code(live, "/health/ready") == (503, "shutting-down")
    assert code(live, "/health/live") == (200, "")
    assert code(live, "/health") == (200, "")
    live.gateway.dispatcher.draining = False
    assert code(live, "/health/ready") == (200, "")


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_without_its_database_it_lives_and_is_not_ready(live: LiveServer, harm: str) -> None:
    live.owner.post("/v1/sessions", json={})
    file = live.settings.data_dir / "tabagent.db"
    whole = file.read_bytes()
    assert code(live, "/health/ready") == (200, "")
    if harm == "damaged":
        file.write_bytes(b"no database" * 1000)
    else:
        file.unlink()
    eventually(lambda: code(live, "/health/ready") == (503, "database-busy"))
    assert code(live, "/health/live") == (200, "")
    file.write_bytes(whole)
    eventually(lambda: code(live, "/health/ready") == (200, ""))


async def test_a_database_that_does_not_answer_holds_nobody_up_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(stores, "PROBE_S", 0.05)
    let_go, asked = threading.Event(), []

    class Stuck(Database):
        def _look(self) -> None:
            asked.append(1)
            assert let_go.wait(10)

    database = Stuck(tmp_path / "x.db")
    for _ in range(3):
        with pytest.raises(DatabaseBusy):
            await asyncio.wait_for(database.usable(), 1)
    assert len(asked) == 1
    let_go.set()
    await asyncio.sleep(0.05)
    await database.usable()
