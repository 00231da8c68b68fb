"""A conversation in items becomes one in messages, as chat templates want it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tabagent.services.responses.items import (
    CallItem,
    CallOutputItem,
    MessageItem,
    ReasoningItem,
    text_of,
)

Message = dict[str, Any]


class Transcript:
    """Messages in the making. What the model thinks, says and calls in a row is one message.

    `history` is copied, so that what others keep of it stays as it is.
    """

    def __init__(self, history: Iterable[Message] = ()) -> None:
        self._messages = list(history)
        self._turn: Message | None = None  # of the model, as long as nobody else has spoken

    @property
    def messages(self) -> list[Message]:
        return self._messages

    def add(self, item: MessageItem | CallItem | CallOutputItem | ReasoningItem) -> None:
        match item:
            case MessageItem(role="assistant"):
                self.answer(text_of(item.content))
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                self.message(role, text_of(item.content))
            case ReasoningItem():
                self.thought(item.text)
            case CallItem():
                self.call(item.call_id, item.name, item.arguments)
            case CallOutputItem():
                self.message("tool", text_of(item.output), tool_call_id=item.call_id)

    def message(self, role: str, content: str, **more: str) -> None:
        self._turn = None
        self._messages.append({"role": role, "content": content, **more})

    def thought(self, text: str) -> None:
        turn = self._turn
        if turn is None or turn["content"] or "tool_calls" in turn:
            turn = self._begin()
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def answer(self, text: str) -> None:
        turn = self._turn
        if turn is None or turn["content"] or "tool_calls" in turn:
            turn = self._begin()
        turn["content"] = text

    def call(self, id_: str, name: str, arguments: str) -> None:
        turn = self._turn or self._begin()
        turn["content"] = turn["content"] or None
        function = {"name": name, "arguments": arguments}
        turn.setdefault("tool_calls", []).append(
            {"id": id_, "type": "function", "function": function}
        )

    def _begin(self) -> Message:
        self._turn = {"role": "assistant", "content": ""}
        self._messages.append(self._turn)
        return self._turn
