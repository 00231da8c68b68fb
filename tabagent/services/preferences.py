"""Defaults that are saved: for all models, for one, and which model answers when none is named."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar

import structlog
from msgspec.structs import replace
from pydantic import Field, ValidationError

from tabagent import wire
from tabagent.catalog.models import BUILTIN, Model
from tabagent.config import Settings, source_of
from tabagent.engine.placement import LoadWish
from tabagent.errors import Conflict, ModelNotFound, WrongModelTask
from tabagent.journal import Journal
from tabagent.operation import Call, NoParameters, Reply, Request
from tabagent.parameters import Whole, invalid
from tabagent.parameters.loading import LoadParameters
from tabagent.parameters.sampling import SamplingSettings
from tabagent.replies.changes import SettingChange
from tabagent.stores.settings import SavedSettings

log = structlog.get_logger(__name__)

PARAMS: Final = "params"
MODEL: Final = "model/"  # before the ids of models that something was saved for
SELECTED: Final = "selected_model"
NO_VARIANT: Final = "default"
NAME: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*(:\w[\w./-]*)?", re.ASCII)
Source = Literal["model", "params"]
Kept = TypeVar("Kept", bound=Request)


class GenerationDefaults(SamplingSettings):
    """What a request that says nothing generates with; null leaves it to the model's file."""

    max_tokens: Whole | None = Field(
        None, ge=1, description="Most tokens to generate; what the context leaves when null."
    )


class SetParams(Request):
    """The new defaults. They take the place of all that were saved before."""

    model_config = {"json_schema_extra": {"examples": [{"params": {"temperature": 0.7}}]}}

    params: GenerationDefaults


class Params(Reply):
    """Defaults for all models."""

    params: GenerationDefaults
    updated_at: datetime | None


class VariantName(Request):
    """A model by its repository and variant, on this machine or not."""

    model_config = {
        "json_schema_extra": {"examples": [{"repo_id": "tabagent/guide", "variant": NO_VARIANT}]}
    }

    repo_id: str = Field(max_length=200, description="`owner/repo`.")
    variant: str = Field(
        max_length=100, description=f"Such as `Q4_K_M`; `{NO_VARIANT}` of a model without variants."
    )

    @property
    def model_id(self) -> str:
        variant = "" if self.variant == NO_VARIANT else f":{self.variant}"
        return self.repo_id + variant


class SaveSettings(VariantName):
    """The new settings. They take the place of all that were saved for this model before."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "repo_id": "tabagent/guide",
                    "variant": NO_VARIANT,
                    "sampling": {"temperature": 0.2},
                    "load": {"n_ctx": 2048},
                }
            ]
        }
    }

    sampling: GenerationDefaults = GenerationDefaults()
    load: LoadParameters = LoadParameters()


class Effective(Reply):
    """A value that a silent request gets, and where it was saved."""

    value: Any
    source: Source


class InferenceSettings(Reply):
    """What is saved for a model."""

    model: str
    on_disk: bool = Field(description="Settings are also kept for models that are not here.")
    sampling: GenerationDefaults
    load: LoadParameters
    updated_at: datetime | None
    effective: dict[str, Effective] = Field(
        description="For requests that say nothing, these with those for all models; what is not "
        "here is as the model's file recommends."
    )
    reload_needed: bool = Field(
        description="Whether it is loaded otherwise than saved; the next load will be as saved."
    )


class SelectRequest(Request):
    """The model for requests that name none; null is the built-in one."""

    model_config = {"json_schema_extra": {"examples": [{"model": BUILTIN}]}}

    model: str | None = Field(max_length=200)


class Selected(Reply):
    """The model that answers requests which name none."""

    model: str


class Preferences:
    """`find` finds a model; `differs` says whether a loaded one is otherwise than such options."""

    def __init__(
        self,
        saved: SavedSettings,
        settings: Settings,
        journal: Journal,
        *,
        find: Callable[[str], Awaitable[Model]],
        differs: Callable[[str, LoadWish], bool],
    ) -> None:
        self._saved, self._settings, self._journal = saved, settings, journal
        self._find, self._differs = find, differs

    # ---- what others ask ------------------------------------------------------------------------
    def selected(self) -> str:
        """The model for requests that name none: as the operator says, else as it was saved."""
        return self._settings.model or self._saved.get(SELECTED) or BUILTIN

    async def forget(self, model_id: str) -> bool:
        """A model is gone from the disk. Says whether it was the selected one, which it is no more."""
        if self._saved.get(SELECTED) != model_id:
            return False
        await self._save(SELECTED, None)
        return True

    def configured(self) -> list[str]:
        """The ids of all models that something was saved for."""
        named = self._saved.after(MODEL)
        selected = self._saved.get(SELECTED)
        return sorted({*named, *([selected] if selected else [])})

    def fill(self, model: Model, commands: Iterable[wire.Generate]) -> list[wire.Generate]:
        """The commands, where they say nothing as was saved for the model, then for all."""
        values = {name: value for name, (value, _) in self._effective(model.id).items()}
        if not values:
            return list(commands)
        limit = values.pop("max_tokens", None)
        return [
            replace(
                command,
                max_tokens=limit if command.max_tokens is None else command.max_tokens,
                sampling=replace(
                    command.sampling,
                    **{k: v for k, v in values.items() if getattr(command.sampling, k) is None},
                ),
            )
            for command in commands
        ]

    async def load_wish(self, model: Model) -> LoadWish:
        """How a model is loaded when nobody says otherwise."""
        _, load = self._of(model.id)
        try:
            draft = await self._find(load.draft_model) if load.draft_model else None
        except ModelNotFound as error:
            error.detail = (
                f"the saved settings of {model.id} name {load.draft_model} as its draft model, which "
                "is not here any more: save others"
            )
            raise
        return LoadWish(load.options(draft), load.keep_alive, load.pin)

    # ---- operations -----------------------------------------------------------------------------
    async def get_params(self, request: NoParameters, call: Call) -> Params:
        """The saved defaults for requests that say nothing, whatever model they name."""
        return Params(params=self._params(), updated_at=_time(self._saved.updated_at(PARAMS)))

    async def set_params(self, request: SetParams, call: Call) -> Params:
        """Save defaults for requests that say nothing. They count at once, and after a restart."""
        await self._save(PARAMS, request.params.model_dump(exclude_none=True) or None)
        return await self.get_params(NoParameters(), call)

    async def get_settings(self, request: VariantName, call: Call) -> InferenceSettings:
        """What is saved for one model, and what a request that says nothing would get."""
        return await self._describe(*await self._named(request))

    async def save_settings(self, request: SaveSettings, call: Call) -> InferenceSettings:
        """Save how a model generates when a request says nothing, and how it is loaded.

        Sampling counts at once, loading from the next load on.
        """
        model_id, here = await self._named(request)
        if request.load.draft_model:
            await self._find(request.load.draft_model)
        value = {
            "sampling": request.sampling.model_dump(exclude_none=True),
            "load": request.load.model_dump(exclude_none=True),
        }
        await self._save(_key(model_id), value if any(value.values()) else None, model_id)
        return await self._describe(model_id, here)

    async def select(self, request: SelectRequest, call: Call) -> Selected:
        """Choose the model that answers requests which name none, also after a restart."""
        if self._settings.model:
            where = source_of("model", {})
            fixed = "the flag --model" if where == "default" else where
            raise Conflict(f"{fixed} says which model is selected: change it there")
        model_id = None
        if request.model is not None:
            model = await self._find(request.model)
            if model.problem is not None:
                raise model.problem.with_traceback(None)
            if model.task not in ("chat", "completion"):
                raise WrongModelTask(f"{model.id} generates no text", param="model")
            model_id = model.id
        await self._save(SELECTED, model_id)
        return Selected(model=self.selected())

    # ---- how ------------------------------------------------------------------------------------
    async def _save(self, key: str, value: Any, model: str | None = None) -> None:
        await self._saved.set(key, value)
        name = "inference_settings" if model else key
        told = {"model": model, **(value or {})} if model else value
        self._journal.note("setting", key, SettingChange(name=name, value=told))

    async def _named(self, request: VariantName) -> tuple[str, bool]:
        """The model's own id and whether it is here. Raises InvalidRequest for what is no name."""
        name = request.model_id
        try:
            return (await self._find(name)).id, True
        except ModelNotFound:
            if not NAME.fullmatch(name):
                raise invalid("/repo_id", "must be owner/repo") from None
            return name, False

    async def _describe(self, model_id: str, here: bool) -> InferenceSettings:
        sampling, load = self._of(model_id)
        reload_needed = False
        if here:
            with suppress(ModelNotFound):  # of its draft model: loading says so
                wish = await self.load_wish(await self._find(model_id))
                reload_needed = self._differs(model_id, wish)
        return InferenceSettings(
            model=model_id,
            on_disk=here,
            sampling=sampling,
            load=load,
            updated_at=_time(self._saved.updated_at(_key(model_id))),
            effective={
                name: Effective(value=value, source=source)
                for name, (value, source) in self._effective(model_id).items()
            },
            reload_needed=reload_needed,
        )

    def _effective(self, model_id: str) -> dict[str, tuple[Any, Source]]:
        sampling, _ = self._of(model_id)
        layers: tuple[tuple[GenerationDefaults, Source], ...] = (
            (self._params(), "params"),
            (sampling, "model"),
        )
        return {
            name: (value, source)
            for layer, source in layers
            for name, value in layer.model_dump(exclude_none=True).items()
        }

    def _params(self) -> GenerationDefaults:
        return _valid(GenerationDefaults, PARAMS, self._saved.get(PARAMS))

    def _of(self, model_id: str) -> tuple[GenerationDefaults, LoadParameters]:
        key = _key(model_id)
        found = self._saved.get(key) or {}
        return (
            _valid(GenerationDefaults, key, found.get("sampling")),
            _valid(LoadParameters, key, found.get("load")),
        )


def _key(model_id: str) -> str:
    return MODEL + model_id


def _valid(kind: type[Kept], key: str, value: Any) -> Kept:
    """What was saved, by an older version perhaps: what is not valid any more is left out, loudly."""
    try:
        return kind.model_validate(value or {})
    except ValidationError as error:
        names = {str(fault["loc"][0]) for fault in error.errors()}
        log.warning("setting_invalid", key=key, names=sorted(names))
        return kind.model_validate({k: v for k, v in value.items() if k not in names})


def _time(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
