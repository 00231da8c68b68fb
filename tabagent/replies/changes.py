"""What changes, as those who follow the events see it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tabagent.engine.loaded import Loaded, Moment
from tabagent.errors import TabAgentError, problem
from tabagent.operation import Reply


class ModelChange(Reply):
    """A model came, went, or is on its way; `failed` is a load that did not succeed."""

    model: str
    state: Moment | Literal["added", "deleted"]
    progress: float | None = Field(None, description="Of a load, from 0 to 1.")
    notes: list[str] = Field([], description="What a load had to do without.")
    problem: dict[str, object] | None = Field(None, description="Why a load failed.")

    @classmethod
    def of(cls, entry: Loaded, moment: Moment, error: TabAgentError | None = None) -> ModelChange:
        return cls(
            model=entry.model.id,
            state=moment,
            progress=round(entry.progress, 3) if moment in ("loading", "restarting") else None,
            notes=list(entry.fallbacks) if moment == "ready" else [],
            problem=problem(error, "") if error else None,
        )


SessionState = Literal["created", "changed", "message", "deleted"]


class SessionChange(Reply):
    """A session came, went, or is otherwise; `message`: some were saved, or an answer has ended."""

    session: str
    state: SessionState
    title: str | None
    message_ids: list[str] = []


class DocumentChange(Reply):
    """A document can be found now, in a new version perhaps, or no more."""

    document: str
    collection: str
    state: Literal["added", "updated", "deleted"]
    title: str
    source: str


class SettingChange(Reply):
    """Something that is kept was set. A secret's value is not told."""

    name: str
    value: Any = None


class ClientChange(Reply):
    """A client was approved, has another name or access, or is no client any more."""

    client: str
    origin: str
    name: str
    access: Literal["user", "admin"]
    state: Literal["approved", "changed", "revoked"]
