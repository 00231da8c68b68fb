"""A model that makes vectors, ranks, labels or marks, behind the worker's contract."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tabagent import wire
from tabagent.errors import InvalidRequest, WrongModelTask
from tabagent.worker.backend import Counts, Work
from tabagent.worker.pooling.model import Context, PoolingModel
from tabagent.worker.pooling.requests import Prepared, Requests
from tabagent.worker.pooling.scheduler import Job, PoolingScheduler


class PoolingBackend:
    """Runs requests of one `model`, whatever engine it is in."""

    def __init__(self, model: PoolingModel) -> None:
        self._model = model
        self._requests: Requests | None = None
        self._context: Context | None = None  # None while it sleeps
        self._scheduler: PoolingScheduler | None = None

    @property
    def engine(self) -> str:
        return self._model.engine

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        """Load for what `command.pooling` says; facts name the width and the longest input."""
        if command.pooling is None:
            raise WrongModelTask("this model generates: it makes no vectors and ranks nothing")
        if command.draft_path:
            detail = "a model that generates nothing has no use for another that guesses"
            errors = [{"pointer": "/draft_model", "detail": detail}]
            raise InvalidRequest(detail, param="draft_model", errors=errors)
        self._queue_wait_s = command.queue_wait_s
        facts = self._model.load(command, progress)
        reading = command.reading or wire.Reading()
        file = os.path.basename(command.path)
        self._requests = Requests(self._model, command.pooling, reading, file)
        self._open()
        return facts | {
            "n_ctx": self._model.limit,
            "dimensions": self._model.width,
            "pooling": command.pooling,
        }

    def _open(self) -> None:
        self._context = self._model.open()
        self._scheduler = PoolingScheduler(self._context, self._queue_wait_s)

    # ---- beside the engine's thread -------------------------------------------------------------
    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        if isinstance(command, wire.Render):
            raise WrongModelTask("this model has no chat template: it reads whole texts")
        return self._model.ask(command)

    def prepare(self, command: Work) -> Prepared:
        assert self._requests is not None, "the gateway loads before it asks"
        return self._requests.prepare(command)

    # ---- the engine's thread --------------------------------------------------------------------
    def submit(self, command: Work, prepared: Prepared) -> None:
        if self._scheduler is None:  # it sleeps
            self._open()
        assert self._scheduler is not None
        self._scheduler.submit(
            Job(command.id, prepared.inputs, prepared.answer, prepared.fault, prepared.by_token)
        )

    def cancel(self, id: int, *, halt: bool) -> list[wire.Event]:
        if self._scheduler:
            self._scheduler.cancel(id)
        return []  # half of the vectors are no answer

    def step(self) -> list[wire.Event]:
        assert self._scheduler is not None
        return self._scheduler.step()

    @property
    def busy(self) -> bool:
        return self._scheduler is not None and self._scheduler.busy

    def counts(self) -> Counts:
        scheduler, context = self._scheduler, self._context
        if scheduler is None or context is None:
            return Counts(0, 0, 0)
        return Counts(scheduler.running, scheduler.waiting, scheduler.steps + context.progress)

    def sleep(self) -> bool:
        """Free the context; what it was made for stays known."""
        if self._context is None or self.busy or not self._model.sleep():
            return False
        self._scheduler = None
        self._context.close()
        self._context = None
        return True

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
        self._model.close()
