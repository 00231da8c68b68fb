"""Messages as the database keeps them, and as chat templates want them."""

from __future__ import annotations

from typing import Any

from tabagent.stores.shapes import Message

Plain = dict[str, Any]


def kept(said: Plain, **more: Any) -> Message:
    """A message of a request, to be saved."""
    extra = {key: value for key, value in said.items() if key not in ("role", "content")}
    return Message(said["role"], said.get("content"), extra, **more)


def plain(message: Message) -> tuple[Plain, int]:
    """(the message for the model, how many of its parts it cannot read).

    Of what it cannot read it is told that it is there.
    """
    content, unread = message.content, 0
    if isinstance(content, list):
        unread = sum(part.get("type") != "text" for part in content)
        content = "".join(
            part["text"] if part.get("type") == "text" else f"[{part.get('type', 'part')}]"
            for part in content
        )
    if content is None and "tool_calls" not in message.extra:
        content = ""
    return {"role": message.role, "content": content, **message.extra}, unread


def says_nothing(message: Message) -> bool:
    """Of an answer that never came: a model is not shown it."""
    return message.role == "assistant" and not message.text and "tool_calls" not in message.extra
