"""Three hundred damaged files in the models directory: listed, tried, refused; nobody else minds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tabagent.catalog.gguf_header import read_gguf_header
from tabagent.catalog.models import BUILTIN
from tabagent.errors import ModelCorrupt
from tests.catalog.gguf_files import small_model
from tests.live import LiveServer, eventually
from tests.worker.tiny_gguf import write_model

FILES, WHOLE, TRIED = 300, 60, 14
"""Of so many, some are whole models otherwise, and of those that look sound so many are loaded."""
TYPED = {
    "model-corrupt", "unsupported-model", "out-of-memory", "worker-crashed", "model-crash-loop",
    "invalid-request", "wrong-model-task",
}  # fmt: skip


def damaged(whole: bytes, header: int, chance: random.Random) -> bytes:
    mutant = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 8))):
        mutant[chance.randrange(header)] = chance.choice(
            (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
        )
    return bytes(mutant)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("damaged") / "models"
    place.mkdir()
    chance = random.Random(22)
    sound = write_model(place / "sound.gguf")
    tiny, small = sound.read_bytes(), small_model()
    header = read_gguf_header(sound).data_offset
    for number in range(FILES):
        path = place / f"damaged-{number}.gguf"
        if number < WHOLE:
            path.write_bytes(damaged(tiny, header, chance))
        else:
            path.write_bytes(damaged(small, 1500, chance))
    yield place
    for path in place.iterdir():
        path.unlink()  # they are large together


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[LiveServer]:
    with LiveServer(models.parent, n_ctx=64, slots=2) as live:
        live.client.timeout = live.owner.timeout = httpx.Timeout(40)
        live.owner.post("/v1/models/load", json={"model": BUILTIN}).raise_for_status()
        yield live


def listing(server: LiveServer) -> dict[str, Any]:
    response = server.client.get("/v1/models")
    assert response.status_code == 200
    return {row["id"]: row for row in response.json()["data"]}


def reads(path: Path) -> bool:
    try:
        read_gguf_header(path)
    except ModelCorrupt:
        return False
    return True


def test_all_of_them_are_listed_with_what_is_wrong(server: LiveServer, models: Path) -> None:
    rows = listing(server)
    verdicts = set()
    for number in range(FILES):
        problem = rows[f"local/damaged-{number}"]["problem"]
        verdicts.add(problem is None)
        assert reads(models / f"damaged-{number}.gguf") is (problem is None)
        if problem is not None:
            assert problem["code"] == "model-corrupt"
            assert str(models) not in str(problem)
    assert verdicts == {True, False}
    assert rows["local/sound"]["problem"] is None
    assert server.answer("Hello", BUILTIN)


def test_what_looks_sound_loads_or_is_refused_and_leaves_nothing_behind(
    server: LiveServer,
) -> None:
    guide, gateway = server.worker(BUILTIN), psutil.Process()
    before = {child.pid for child in gateway.children(recursive=True)}
    rows = listing(server)
    sound = [n for n in range(WHOLE) if rows[f"local/damaged-{n}"]["problem"] is None]
    hollow = [n for n in range(WHOLE, FILES) if rows[f"local/damaged-{n}"]["problem"] is None]
    came_to: dict[str, int] = {}
    for number in [*sound[: TRIED - 4], *hollow[:4]]:
        model = f"local/damaged-{number}"
        loaded = server.owner.post("/v1/models/load", json={"model": model})
        if loaded.status_code == 200:
            said = server.client.post(
                "/v1/completions", json={"model": model, "prompt": "Hello", "max_tokens": 4}
            )
            assert said.status_code == 200 or said.json()["code"] in TYPED, said.text
            server.owner.post("/v1/models/unload", json={"model": model}).raise_for_status()
            came_to["loaded"] = came_to.get("loaded", 0) + 1
        else:
            assert loaded.status_code in (400, 422, 503, 507), loaded.text
            code = loaded.json()["code"]
            assert code in TYPED, loaded.text
            came_to[code] = came_to.get(code, 0) + 1
        assert server.client.get("/health").status_code == 200
        assert server.loaded(BUILTIN)["pid"] == guide.pid
    assert sum(came_to.values()) == TRIED
    assert came_to["loaded"], "some damage does no harm"
    assert came_to["model-corrupt"] >= 4, "those without weights at least"
    eventually(
        lambda: {child.pid for child in gateway.children(recursive=True)} <= before,
        10,
        "a worker was left behind",
    )
    assert server.answer("Hello", BUILTIN)
    sound_one = {"model": "local/sound", "prompt": "Hello", "max_tokens": 4}
    assert server.client.post("/v1/completions", json=sound_one).status_code == 200
