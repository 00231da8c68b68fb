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

    Of what it cannot read it is told that it is there. A call that was cut off is none.
    """
    content, unread = message.content, 0
    extra = message.extra
    if message.status != "complete":
        extra = {key: value for key, value in extra.items() if key != "tool_calls"}
    if isinstance(content, list):
        unread = sum(part.get("type") != "text" for part in content)
        content = "".join(
            part["text"] if part.get("type") == "text" else f"[{part.get('type', 'part')}]"
            for part in content
        )
    if content is None and "tool_calls" not in extra:
        content = ""
    return {"role": message.role, "content": content, **extra}, unread


def alone(message: Message) -> tuple[Plain, int]:
    """The same for a message that stands without those around it: no call, no answer to one."""
    said, unread = plain(message)
    if message.role == "tool":
        return {"role": "user", "content": f"[tool] {said['content']}"}, unread
    return {"role": message.role, "content": said["content"] or ""}, unread


def says_nothing(message: Message, *, alone: bool = False) -> bool:
    """Of an answer that never came: a model is not shown it."""
    called = not alone and message.status == "complete" and "tool_calls" in message.extra
    return message.role == "assistant" and not message.text and not called
