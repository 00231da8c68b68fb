"""How much of a conversation goes into a prompt, where a word is a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tabagent.sessions.fitting import TRIES, Fitted, fit, turns_of
from tabagent.sessions.plain import Plain
from tabagent.stores.shapes import Message

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


class Measure:
    """Counts words, and how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, messages: Sequence[Plain]) -> int:
        self.times += 1
        return sum(len(str(message["content"] or "").split()) for message in messages)


def talk(turns: int, words: int = 10, start: int = 0) -> list[Message]:
    """Questions and answers of so many words each; the first word says where it lies."""
    return [
        Message(
            "user" if depth % 2 == 0 else "assistant",
            " ".join([f"m{depth}", *["word"] * (words - 1)]),
            depth=depth,
        )
        for depth in range(start, start + 2 * turns)
    ]


def ask(text: str = "new", depth: int = 10**6) -> list[Message]:
    return [Message("user", text, depth=depth)]


async def fitted(
    history: Sequence[Message],
    budget: int,
    *,
    pinned: Sequence[Message] = (),
    new: Sequence[Message] | None = None,
    measure: Measure | None = None,
    **more: Any,
) -> Fitted:
    given: dict[str, Any] = {"system": None, "before": 0, "hint": None} | more
    new = ask() if new is None else new
    return await fit(history, pinned, new, budget=budget, measure=measure or Measure(), **given)


def first_words(made: Fitted) -> list[str]:
    return [str(message["content"]).split()[0] for message in made.messages]


async def test_all_of_a_short_conversation_is_there_and_nothing_is_measured() -> None:
    measure = Measure()
    made = await fitted(talk(2), 5000, system="be brief", measure=measure)
    assert first_words(made) == ["be", "m0", "m1", "m2", "m3", "new"]
    assert (made.read, made.omitted, made.unread, made.start) == (4, 0, 0, 0)
    assert measure.times == 0


async def test_tools_beside_the_messages_count_before_nothing_is_measured() -> None:
    measure = Measure()
    await fitted(talk(2), 5000, measure=measure, beside=4900)
    assert measure.times == 1


async def test_one_that_may_be_too_long_is_measured_once_and_whole_when_it_fits() -> None:
    measure = Measure()
    made = await fitted(talk(50), 1001, measure=measure)
    assert (made.read, made.omitted) == (100, 0)
    assert measure.times == 1


async def test_the_newest_are_kept_and_a_prompt_begins_with_a_question() -> None:
    measure = Measure()
    made = await fitted(talk(50), 1000, measure=measure)
    assert first_words(made)[-2:] == ["m99", "new"]
    assert made.messages[0]["role"] == "user"
    assert made.read + made.omitted == 100
    assert 0.6 * 1000 < made.read * 10 + 1 <= 0.7 * 1000
    assert measure.times <= TRIES + 1


async def test_a_tools_answer_is_never_parted_from_its_call() -> None:
    history: list[Message] = []
    for number in range(40):
        depth = 4 * number
        call = CALL | {"id": f"c{number}"}
        history += [
            Message("user", "do it", depth=depth),
            Message("assistant", None, {"tool_calls": [call]}, depth=depth + 1),
            Message("tool", "word " * 20, {"tool_call_id": f"c{number}"}, depth=depth + 2),
            Message("assistant", "done", depth=depth + 3),
        ]
    assert [len(turn) for turn in turns_of(history)] == [4] * 40
    for budget in range(30, 800, 17):
        # What was looked at may begin anywhere.
        for cut in (0, 1, 2, 3):
            for turns in (40, 2):
                shown = history[160 - 4 * turns + cut :]
                made = await fitted(shown, budget, before=160 - len(shown))
                calls: set[str] = set()
                for message in made.messages:
                    calls |= {call["id"] for call in message.get("tool_calls", ())}
                    if message["role"] == "tool":
                        assert message["tool_call_id"] in calls
                assert made.messages[0]["role"] == "user"
                assert made.read + made.omitted == 160


async def test_pinned_and_system_messages_are_there_wherever_they_lie() -> None:
    history = talk(100)
    rule = Message("system", "rule", depth=4, pinned=True)
    history[4] = rule
    pinned = [rule, history[10]]
    made = await fitted(history[100:], 300, before=100, pinned=pinned, system="be brief")
    assert made.messages[0] == {"role": "system", "content": "be brief\n\nrule"}
    assert made.messages[1]["content"].startswith("m10 ")
    assert made.read + made.omitted == 200
    whole = await fitted(history, 50_000, pinned=pinned)
    assert sum(message["content"].startswith("m10 ") for message in whole.messages) == 1
    assert whole.read == 200


async def test_a_pinned_answer_stands_alone_without_its_question_its_call_or_its_tool() -> None:
    pinned = [
        Message("assistant", "answer", {"tool_calls": [CALL]}, depth=1, pinned=True),
        Message("tool", "42", {"tool_call_id": "c1"}, depth=2, pinned=True),
        Message("assistant", None, {"tool_calls": [CALL]}, depth=3, pinned=True),
    ]
    made = await fitted(talk(20, start=100), 100, before=100, pinned=pinned)
    assert made.messages[:2] == [
        {"role": "user", "content": "[earlier]"},
        {"role": "assistant", "content": "answer"},
    ]
    assert made.messages[2]["role"] == "user"
    assert made.messages[2]["content"].startswith("[tool] 42\n\nm")


async def test_the_beginning_stays_where_it_was_for_many_turns() -> None:
    history: list[Message] = []
    hint: int | None = None
    moved, most, starts = 0, 0, set[int]()
    for number in range(300):
        measure = Measure()
        made = await fitted(history, 1000, hint=hint, measure=measure)
        assert await measure(made.messages) <= 1000
        moved += hint is not None and made.start != hint
        hint = made.start
        starts.add(made.start)
        most = max(most, measure.times)
        history += talk(1, start=2 * number)
    # 20 words a turn: 300 words are free again after each move, which are 15 turns.
    assert moved == len(starts) - 1
    assert moved <= 300 / 14
    assert most <= TRIES + 3


async def test_the_beginning_stays_also_where_no_more_messages_are_looked_at() -> None:
    history: list[Message] = []
    hint: int | None = None
    moved = 0
    for number in range(600):
        window = history[-256:]
        made = await fitted(window, 100_000, before=len(history) - len(window), hint=hint)
        moved += hint is not None and made.start != hint
        hint = made.start
        history += talk(1, start=2 * number)
    assert moved <= 600 / 25


async def test_a_message_that_alone_is_too_large_is_not_cut() -> None:
    measure = Measure()
    made = await fitted(talk(10), 100, new=ask("word " * 500), measure=measure)
    assert (made.read, made.omitted) == (0, 20)
    assert len(made.messages[-1]["content"].split()) == 500
    assert measure.times <= TRIES + 1


async def test_what_was_never_answered_is_not_shown_as_answered() -> None:
    history = [
        Message("user", "one", depth=0),
        Message("assistant", "", status="failed", depth=1),
        Message("user", "two", depth=2),
        Message("assistant", None, {"tool_calls": [CALL]}, status="partial", depth=3),
        Message("user", "three", depth=4),
        Message("assistant", "half of it", {"tool_calls": [CALL]}, status="partial", depth=5),
    ]
    made = await fitted(history, 5000)
    assert made.messages == [
        {"role": "user", "content": "one\n\ntwo\n\nthree"},
        {"role": "assistant", "content": "half of it"},
        {"role": "user", "content": "new"},
    ]
    assert made.omitted == 0


async def test_a_system_message_that_comes_with_every_request_is_said_once() -> None:
    rule = Message("system", "rule", depth=0, pinned=True)
    again = [Message("system", "rule", depth=50), *ask()]
    made = await fitted([rule, *talk(2, start=1)], 5000, pinned=[rule], new=again, system="rule")
    assert made.messages[0] == {"role": "system", "content": "rule"}


@pytest.mark.parametrize("kind", ["image_url", "input_audio"])
async def test_what_cannot_be_read_is_counted_and_said_to_be_there(kind: str) -> None:
    parts = [{"type": "text", "text": "see "}, {"type": kind, kind: {"url": "data:x"}}]
    made = await fitted([Message("user", parts, depth=0), *talk(1, start=1)], 5000)
    assert made.messages[0]["content"] == f"see [{kind}]"
    assert made.unread == 1
