"""What a reply says of the session in which it took place."""

from __future__ import annotations

from pydantic import Field

from tabagent.operation import Reply


class SessionNote(Reply):
    """Where the exchange is kept, and how much of what came before the model has read."""

    id: str
    branch: str
    message_ids: list[str] = Field(description="Of the request's messages, as they are kept.")
    answer_id: str = Field(description="Of the answer.")
    history_messages: int = Field(description="Earlier messages that the model has read.")
    omitted_messages: int = Field(
        description="Earlier messages that did not fit into the context. They are kept, and the "
        "newest and the pinned ones go before others."
    )
    summarised: bool = Field(
        description="Whether the model was given a summary of what it has not read."
    )
    unread_parts: int = Field(
        description="Parts such as images, of which the model was told that they are there."
    )
