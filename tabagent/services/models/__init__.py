"""Which models there are, which are loaded, and loading and unloading them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from tabagent.catalog.models import Catalog, Model, Task
from tabagent.engine.supervisor import Supervisor
from tabagent.engine.verdict import Verdict
from tabagent.errors import WrongModelTask, problem
from tabagent.operation import Call, NoParameters
from tabagent.services.models.loaded import LoadedInfo, LoadedList, loaded_info
from tabagent.services.models.shapes import (
    Capabilities,
    LoadRequest,
    ModelInfo,
    ModelList,
    ModelName,
    ModelsRequest,
    Unloaded,
    UnloadRequest,
)

__all__ = ["ModelInfo", "Models", "ModelsRequest"]


class Models:
    """The catalogue as callers see it."""

    def __init__(
        self,
        catalog: Catalog,
        supervisor: Supervisor,
        selected: Callable[[], str],
        named: Mapping[Task, str | None],
    ) -> None:
        """`named` are the models that settings name for a task."""
        self._catalog, self._supervisor, self._selected = catalog, supervisor, selected
        self._named = named

    @property
    def selected(self) -> str:
        """The id of the model that answers requests which name none."""
        return self._selected()

    async def resolve(self, name: str | None) -> Model:
        """The model a request names; the selected one when it names none."""
        return await self.find(name or self.selected)

    async def find(self, name: str) -> Model:
        """Known and unchanged costs a `stat`; else directories and headers are read, in a thread."""
        known = self._catalog.known(name)
        return known if known else await asyncio.to_thread(self._catalog.find, name)

    async def resolve_for(self, name: str | None, task: Task) -> Model | None:
        """The model a request names. Without a name one for `task`, or None when there is none:
        what the settings name, else the selected model, else one that is loaded, else the first in
        the list. What is built in comes last.
        """
        if wanted := name or self._named.get(task):
            return await self.find(wanted)
        able = [
            (model, loaded)
            for model, loaded in await self.with_state()
            if model.task == task and model.problem is None
        ]
        able.sort(
            key=lambda pair: (
                pair[0].id != self.selected,
                pair[0].location == "built-in",
                not pair[1],
            )
        )
        return able[0][0] if able else None

    async def with_state(self) -> list[tuple[Model, bool]]:
        """All models, and whether each is loaded."""
        models = await asyncio.to_thread(self._catalog.scan)
        ready = {entry.model.id for entry in self._supervisor.loaded() if entry.state == "ready"}
        return [(model, model.id in ready) for model in models]

    async def adapter(self, name: str) -> Model:
        """A LoRA adapter by name. Raises ModelNotFound or WrongModelTask, as its file deserves."""
        found = await self.find(name)
        if found.problem is not None:
            raise found.problem.with_traceback(None)
        if found.task != "adapter":
            raise WrongModelTask(f"{found.id} is a model, not an adapter", param="lora")
        return found

    def context_length(self, model: Model) -> int:
        """Tokens one sequence may have, as loaded now."""
        entry = self._supervisor.get(model.id)
        if entry is None:
            return model.context_length
        length: int = entry.facts.get("n_ctx", entry.placement.n_ctx)
        return length

    async def list(self, request: ModelsRequest, call: Call) -> ModelList:
        """List the models on this machine."""
        models = await asyncio.to_thread(self._catalog.scan)
        judge = self._supervisor.room.judge() if request.fits else None
        return ModelList(data=[self._info(m, judge) for m in models if m.task != "adapter"])

    async def info(self, request: ModelName, call: Call) -> ModelInfo:
        """Describe one model."""
        return self._info(await self.find(request.model_id), self._supervisor.room.judge())

    async def load(self, request: LoadRequest, call: Call) -> LoadedInfo:
        """Load a model and wait until it can answer.

        Naming a model in a request loads it too; this is for choosing how, or for doing it early.
        """
        model = await self.find(request.name)
        draft = await self.find(request.draft_model) if request.draft_model else None
        entry = await self._supervisor.load(
            model,
            request.options(draft),
            force_reload=request.force_reload,
            keep_alive_s=request.keep_alive,
            pin=request.pin,
        )
        return loaded_info(entry)

    async def unload(self, request: UnloadRequest, call: Call) -> Unloaded:
        """Let a model go and give its memory back."""
        model = await self.find(request.model)
        await self._supervisor.unload(model.id, force=request.force)
        return Unloaded(model=model.id)

    async def loaded(self, request: NoParameters, call: Call) -> LoadedList:
        """List the models that have a process: memory, slots, queue."""
        return LoadedList(data=[loaded_info(entry) for entry in self._supervisor.loaded()])

    def _info(self, model: Model, judge: Callable[[Model], Verdict] | None) -> ModelInfo:
        able = judge and model.problem is None and model.task != "adapter"
        entry = self._supervisor.get(model.id)
        return ModelInfo(
            id=model.id,
            created=model.modified,
            owned_by=model.id.partition("/")[0],
            format=model.format,
            task=model.task,
            architecture=model.architecture,
            quantization=model.quantisation,
            size_bytes=model.size_bytes,
            files=model.files,
            location=model.location,
            parameters=model.parameters,
            context_length=model.context_length,
            dimensions=model.embedding_length or None,
            license=model.license,
            capabilities=Capabilities(
                chat=model.task == "chat",
                completion=model.task in ("chat", "completion"),
                embeddings=model.task == "embedding",
                rerank=model.task == "rerank",
                classification=model.task == "classification",
                tools=model.abilities.tools,
                reasoning=model.abilities.reasoning,
                vision=False,
            ),
            fits=judge(model).fits if judge and able else None,
            loaded=entry is not None and entry.state == "ready",
            state=entry.state if entry else None,
            resident_bytes=entry.process.beat.resident_bytes if entry and entry.process else None,
            selected=model.id == self.selected,
            problem=_short(model),
        )


def _short(model: Model) -> dict[str, Any] | None:
    if model.problem is None:
        return None
    document = problem(model.problem, "")
    return {k: v for k, v in document.items() if k not in ("instance", "error", "retryable")}
