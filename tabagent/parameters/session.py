"""How a request that generates says in which session it takes place."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tabagent.operation import Request
from tabagent.parameters import invalid

Id = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f]+$")] | None


class SessionParameters(Request):
    """A session whose history comes first, and which keeps what is said now."""

    session_id: Id = Field(
        None,
        description="Go on in this session: its history comes before the messages, as much of it "
        "as fits; the messages and the answer are saved in it.",
    )
    branch: Id = Field(None, description="The branch to go on from; the current when left out.")
    replace_message_id: Id = Field(
        None,
        description="Say the new messages in the place of this one and all after it. That forks "
        "the conversation: both branches stay. Without messages it is answered again.",
    )

    @model_validator(mode="after")
    def _belongs_to_a_session(self) -> Self:
        for name in ("branch", "replace_message_id"):
            if getattr(self, name) is not None and self.session_id is None:
                raise invalid(f"/{name}", "goes with session_id")
        if self.branch is not None and self.replace_message_id is not None:
            raise invalid("/branch", "the message says which: leave one of them out")
        return self
