"""A real server for tests: the gateway on uvicorn, on a free port, with real worker processes."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil

from tabagent.app import Gateway
from tabagent.catalog.models import Model
from tabagent.commands.serve import Server, loop_factory
from tabagent.config import Settings
from tabagent.hardware.devices import Look
from tabagent.hardware.findings import Memory
from tabagent.hardware.limits import memory
from tabagent.hardware.look import devices_now
from tabagent.wire import Reading

T = TypeVar("T")
TOKEN = "t" * 32
FAKE = "fake/counter"
EMBEDDER = "fake/embedder"
RERANKER = "fake/reranker"
CLASSIFIER = "fake/classifier"
TAGGER = "fake/tagger"


def fake_model(name: str = FAKE, path: str = "/fake", **facts: Any) -> Model:
    return Model(
        id=name,
        path=Path(path),
        backend="fake",
        format="fake",
        context_length=4096,
        **facts,
    )


def fake_models(name: str = FAKE) -> list[Model]:
    """One for each task."""
    return [
        fake_model(name),
        fake_model(EMBEDDER, task="embedding", pooling="mean", embedding_length=8),
        fake_model(RERANKER, task="rerank", pooling="rank"),
        fake_model(
            CLASSIFIER,
            task="classification",
            pooling="labels",
            reading=Reading(labels=["odd", "even"]),
        ),
        fake_model(TAGGER, task="entities", pooling="spans"),
    ]


def eventually(condition: Callable[[], Any], timeout: float = 5.0, what: str = "") -> Any:
    """Wait until `condition` is true and return its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, what or f"not within {timeout} s: {condition}"
        time.sleep(0.01)
    return value


class LiveServer:
    """The gateway in a thread. Use as a context manager."""

    def __init__(
        self,
        data_dir: Path,
        *,
        extra: Iterable[Model] = (),
        look: Look = devices_now,
        memory: Callable[[], Memory] = memory,
        **settings: Any,
    ) -> None:
        values: dict[str, Any] = {
            "port": 0,
            "data_dir": data_dir,
            "hub_cache": data_dir / "hub-cache",
            "drain_s": 0.5,
            "worker_beat_s": 0.5,
        } | settings
        self.settings = Settings(**values)
        self.gateway = Gateway(self.settings, TOKEN, extra=extra, look=look, memory=memory)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self.server = Server(self.gateway, self._ready.set)

    def __enter__(self) -> Self:
        self.settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.gateway.start()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.gateway.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.gateway.port}"
        self._thread.start()
        assert self._ready.wait(10)
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        self.owner = httpx.Client(
            base_url=self.url,
            timeout=30,
            trust_env=False,
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.owner.close()
        self.stop()

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            self._loop = runner.get_loop()
            runner.run(self.server.serve([self._socket]))

    def on_its_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the server's own thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # ---- shorthand ------------------------------------------------------------------------------
    def chat(self, text: str, model: str | None = FAKE, **more: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=chat_body(text, model, **more))

    def answer(self, text: str, model: str | None = FAKE, **more: Any) -> str:
        response = self.chat(text, model, **more)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def loaded(self, model: str = FAKE) -> dict[str, Any]:
        rows = self.client.get("/v1/models/loaded").json()["data"]
        found: dict[str, Any] = next((row for row in rows if row["model"] == model), {})
        return found

    def worker(self, model: str = FAKE) -> psutil.Process:
        return psutil.Process(eventually(lambda: self.loaded(model).get("pid"), 15))

    def idle(self, model: str = FAKE) -> bool:
        row = self.loaded(model)
        return row.get("slots_used") == 0 and row.get("queue") == 0


def chat_body(text: str, model: str | None = FAKE, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], **more}
    return body if model is None else {"model": model, **body}
