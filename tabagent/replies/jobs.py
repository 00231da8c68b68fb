"""Jobs of the server, as those who wait for them see them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from tabagent.operation import Reply
from tabagent.stores.papers import Job


class JobFailure(Reply):
    """What could not be taken in. Without a source it is the job itself that failed."""

    source: str
    problem: dict[str, Any]


class JobInfo(Reply):
    """A job and how far it is."""

    id: str
    object: Literal["job"] = "job"
    kind: Literal["documents", "folder", "embed", "index"]
    collection: str
    state: Literal["running", "done", "cancelled", "failed"]
    total: int = Field(description="Documents or chunks; 0 until it is known.")
    done: int = Field(description="Of them, whatever came of them.")
    counts: dict[str, int] = Field(
        description="What came of them: `added`, `updated`, `unchanged` (the same content), "
        "`failed`, `skipped` (nothing that is read), `replaced` (it came twice), `removed`."
    )
    failures: list[JobFailure] = Field(description="The first hundred of them.")
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> JobInfo:
        return cls(
            id=job.id,
            kind=job.kind,
            collection=job.collection,
            state=job.state,
            total=job.total,
            done=job.done,
            counts=dict(job.counts),
            failures=[JobFailure(**failure) for failure in job.failures],
            created_at=datetime.fromtimestamp(job.created_at, UTC),
            ended_at=datetime.fromtimestamp(job.ended_at, UTC) if job.ended_at else None,
        )
