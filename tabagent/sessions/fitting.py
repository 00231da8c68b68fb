"""How much of a conversation goes into a model's context: whole turns, the newest first.

A turn begins with what a person says, so that no tool's answer is parted from its call. Once a
conversation is longer than the context, its beginning is left out in large steps: as long as a
prompt begins where the last one began, the model need not read it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tabagent.sessions.plain import Plain, alone, plain, says_nothing
from tabagent.stores.shapes import Message

ROOM: Final = 0.7  # of the budget that is filled when the beginning moves on
FRAME: Final = 16  # tokens around a message, at most
TRIES: Final = 6  # measurements of one prompt
EARLIER: Final = "[earlier]"  # said before an answer whose question is left out

Measure = Callable[[Sequence[Plain]], Awaitable[int]]
"""How many tokens the model reads when it is asked this."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt. `start` is the depth of the first message that is not there for its pin alone."""

    messages: list[Plain]
    read: int
    omitted: int
    unread: int
    start: int


def turns_of(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in their order, a new turn at each that a person says."""
    turns: list[list[Message]] = []
    for message in messages:
        follows = turns and turns[-1][-1].role == "user" and message.role == "user"
        if not turns or (message.role == "user" and not follows):
            turns.append([])
        turns[-1].append(message)
    return turns


async def fit(
    history: Sequence[Message],
    pinned: Sequence[Message],
    new: Sequence[Message],
    *,
    system: str | None,
    before: int,
    budget: int,
    hint: int | None,
    measure: Measure,
    beside: int = 0,
) -> Fitted:
    """The prompt for `new` after as much of `history` as fits into `budget` tokens.

    `history` is the newest part of a branch, `before` how many messages that has before it, and
    `pinned` are its pinned messages, all of them. What `hint` names as its beginning is kept as
    long as it fits. `new` is never cut: a model that cannot hold it says so. `beside` is how many
    tokens the model reads beside messages at most, such as tools.
    """
    turns = turns_of(history)
    if before and turns and turns[0][0].role != "user":
        del turns[0]  # the end of a turn, whose beginning is not there
    prompts: dict[int, _Prompt] = {}

    def prompt(first: int) -> _Prompt:
        if first not in prompts:
            prompts[first] = _prompt(turns, first, pinned, new, system)
        return prompts[first]

    def fitted(first: int) -> Fitted:
        made = prompt(first)
        total = before + len(history)
        start = turns[first][0].depth if first < len(turns) else total
        return Fitted(made.messages, made.read, total - made.read, made.unread, start)

    if not before and prompt(0).most_tokens + beside <= budget:
        return fitted(0)
    hinted = next((n for n, turn in enumerate(turns) if turn[0].depth == hint), None)
    first = 0 if hinted is None else hinted
    if (hinted is not None or not before) and await measure(prompt(first).messages) <= budget:
        return fitted(first)
    # Too long, or longer than was looked at: what fills a part of the budget, by its real tokens.
    # The oldest that were looked at are not looked at next time: it does not begin with them.
    low, high = max(first, len(turns) // 4 if before else 0), len(turns)
    for _ in range(TRIES):
        if low >= high:
            break
        middle = (low + high) // 2
        if await measure(prompt(middle).messages) <= budget * ROOM:
            high = middle
        else:
            low = middle + 1
    return fitted(high)


@dataclass(frozen=True, slots=True)
class _Prompt:
    messages: list[Plain]
    read: int
    unread: int

    @property
    def most_tokens(self) -> int:
        """No less than it has, without asking the model: no token is shorter than a byte."""
        size = sum(len(str(message).encode(errors="replace")) for message in self.messages)
        return size + FRAME * len(self.messages)


def _prompt(
    turns: Sequence[Sequence[Message]],
    first: int,
    pinned: Sequence[Message],
    new: Sequence[Message],
    system: str | None,
) -> _Prompt:
    taken = [message for turn in turns[first:] for message in turn]
    start = taken[0].depth if taken else None
    earlier = [m for m in pinned if start is None or m.depth < start]
    opening = [system] if system else []
    messages: list[Plain] = []
    unread = 0
    for number, message in enumerate((*earlier, *taken, *new)):
        parted = number < len(earlier)
        if says_nothing(message, alone=parted):
            continue
        said, parts = alone(message) if parted else plain(message)
        unread += parts
        if parted and said["role"] == "assistant" and not messages:  # templates want a question
            messages.append({"role": "user", "content": EARLIER})
        if message.role == "system":  # many templates know one, at the beginning
            if said["content"] not in opening:  # clients say it anew with every request
                opening.append(said["content"])
        elif (
            messages
            and said.keys() == {"role", "content"} == messages[-1].keys()
            and messages[-1]["role"] == said["role"]
        ):  # an answer never came, or its question did not fit: templates want them in turn
            messages[-1] = said | {"content": f"{messages[-1]['content']}\n\n{said['content']}"}
        else:
            messages.append(said)
    if opening:
        messages.insert(0, {"role": "system", "content": "\n\n".join(opening)})
    return _Prompt(messages, len(earlier) + len(taken), unread)
