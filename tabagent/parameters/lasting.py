"""How long an answer goes on without the client that asked for it."""

from __future__ import annotations

from pydantic import Field

from tabagent.operation import Request


class LastingParameters(Request):
    """Parameters of what can be followed again after its client was lost."""

    detach: bool = Field(
        False,
        description="The answer is written to its end, also when nobody follows it; "
        "`resume_generation` has it afterwards.",
    )
    resume_ttl: float | None = Field(
        None,
        ge=0,
        le=3600,
        description="Seconds that the answer goes on after its client was lost, waiting to be "
        "followed by `resume_generation`. Over HTTP 0 when unset: a hang-up ends it.",
    )
