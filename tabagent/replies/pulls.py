"""A pull as callers see it."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field

from tabagent.errors import problem
from tabagent.hub.jobs import Job, State
from tabagent.operation import Reply


class Pull(Reply):
    """A pull as it stands."""

    id: str
    model: str
    state: State
    file: str = Field(description="The file that is coming.")
    completed_bytes: int
    total_bytes: int
    bytes_per_second: int
    eta_s: float | None
    created_at: datetime
    problem: dict[str, object] | None = Field(description="Why it failed, if it did.")

    @classmethod
    def of(cls, job: Job) -> Pull:
        rate = job.rate
        return cls(
            id=job.id,
            model=job.model,
            state=job.state,
            file=job.file,
            completed_bytes=job.have,
            total_bytes=job.total,
            bytes_per_second=int(rate),
            eta_s=round((job.total - job.have) / rate, 1) if rate and job.running else None,
            created_at=datetime.fromtimestamp(job.created, UTC),
            problem=problem(job.error, "") if job.error else None,
        )
