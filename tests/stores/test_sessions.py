"""Sessions in the database: branches, pages, search, and nothing lost between two writers."""

from __future__ import annotations

import asyncio

import pytest

from tabagent.errors import Conflict, InvalidRequest, NotFound, SessionNotFound
from tabagent.stores.database import Database
from tabagent.stores.messages import MessageStore
from tabagent.stores.sessions import SessionStore
from tabagent.stores.shapes import Message, Wanted

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def sessions(database: Database) -> SessionStore:
    return SessionStore(database, "here")


@pytest.fixture
def messages(database: Database) -> MessageStore:
    return MessageStore(database, "here")


def said(*texts: str) -> list[Message]:
    return [
        Message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(texts)
    ]


async def texts(messages: MessageStore, session_id: str, branch: str | None = None) -> list[str]:
    _, page, _, _ = await messages.page(session_id, branch=branch, limit=1000, newest_first=False)
    return [message.text for message in page]


async def test_a_session_is_made_changed_listed_and_deleted(
    sessions: SessionStore, messages: MessageStore
) -> None:
    made = await sessions.create(title="Soup", model="a/b", tags=["b", "a", "b"], metadata={"x": 1})
    assert (await sessions.get(made.id)) == made
    assert made.tags == ["a", "b"]
    changed = await sessions.update(made.id, {"title": "Stew", "tags": ["c"], "pinned": True})
    assert (changed.title, changed.tags, changed.pinned) == ("Stew", ["c"], True)
    await messages.append(made.id, said("one"))
    await sessions.delete(made.id)
    with pytest.raises(SessionNotFound):
        await sessions.get(made.id)
    with pytest.raises(SessionNotFound):
        await messages.append(made.id, said("two"))
    assert await messages.find_words("one", 10) == []


async def test_a_list_pages_through_all_pinned_first_and_the_last_used_before(
    sessions: SessionStore, messages: MessageStore
) -> None:
    made = [
        (await sessions.create(title=f"s{number}", pinned=number == 3)).id for number in range(7)
    ]
    await messages.append(made[1], said("hello"))
    seen: list[str] = []
    after = None
    while True:
        page, after = await sessions.search(Wanted(), after, 2)
        seen += [session.id for session in page]
        if after is None:
            break
    assert seen == [made[n] for n in (3, 1, 6, 5, 4, 2, 0)]
    with pytest.raises(InvalidRequest, match="cursor"):
        await sessions.search(Wanted(), "nonsense", 2)


async def test_sessions_are_found_by_title_tag_and_what_was_said(
    sessions: SessionStore, messages: MessageStore
) -> None:
    soup = await sessions.create(title="100% soup_", tags=["food"])
    other = await sessions.create(title="Other")
    await sessions.create(title="Archived soup", tags=["food"])
    await messages.append(other.id, said("where is the Brücke?"))

    async def found(**wanted: object) -> list[str]:
        return [s.id for s in (await sessions.search(Wanted(**wanted), None, 10))[0]]  # type: ignore[arg-type]  # as a caller names them

    assert await found(search="100% SOUP_") == [soup.id]
    assert await found(search="%") == [soup.id]
    assert await found(search="Brücke") == [other.id]
    assert await found(search="nothing of this") == []
    assert soup.id in await found(tag="food")
    assert await found(archived=True) == []


async def test_editing_an_earlier_message_forks_and_both_branches_stay(
    sessions: SessionStore, messages: MessageStore
) -> None:
    made = await sessions.create()
    first = await messages.append(made.id, said("a", "b", "c", "d"))
    second = await messages.append(made.id, said("C2"), replaces=first[2].id)
    await messages.append(made.id, [Message("assistant", "D2")])
    assert await texts(messages, made.id) == ["a", "b", "C2", "D2"]
    assert await texts(messages, made.id, first[0].branch_id) == ["a", "b", "c", "d"]
    third = await messages.append(made.id, said("C3"), replaces=second[0].id)
    assert await texts(messages, made.id) == ["a", "b", "C3"]
    await messages.append(made.id, said("A2"), replaces=first[0].id)
    assert await texts(messages, made.id) == ["A2"]
    session, branches = await sessions.branches(made.id)
    assert session.message_count == 8
    assert [(branch.fork_depth, count) for branch, count in branches] == [
        (-1, 4), (1, 4), (1, 3), (-1, 1),
    ]  # fmt: skip
    # A fork of a fork hangs where its messages are, so that chains do not grow.
    assert branches[2][0].parent_id == first[0].branch_id
    await sessions.update(made.id, {"branch_id": third[0].branch_id})
    assert await texts(messages, made.id) == ["a", "b", "C3"]
    with pytest.raises(NotFound):
        await messages.append(made.id, said("x"), replaces="msg_other")
    with pytest.raises(SessionNotFound):
        await messages.append(made.id, said("x"), branch="br_other")


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_of_a_branch_of_branches_are_whole_from_both_ends(
    sessions: SessionStore, messages: MessageStore, newest_first: bool
) -> None:
    made = await sessions.create()
    rows = await messages.append(made.id, said(*map(str, range(9))))
    for depth in (7, 5, 6):  # each fork leaves the newest branch somewhere
        rows = rows[:depth] + await messages.append(
            made.id, said(*(f"{depth}/{n}" for n in range(4))), replaces=rows[depth].id
        )
    wanted = [row.id for row in rows]
    seen: list[str] = []
    after = None
    while True:
        _, page, after, total = await messages.page(
            made.id, after=after, limit=2, newest_first=newest_first
        )
        seen += [row.id for row in page]
        if after is None:
            break
    assert seen == (wanted[::-1] if newest_first else wanted)
    assert total == len(wanted)


async def test_two_who_write_at_once_lose_nothing_and_keep_their_order(
    sessions: SessionStore, messages: MessageStore
) -> None:
    made = await sessions.create()

    async def tab(name: str) -> None:
        for number in range(20):
            await messages.append(
                made.id, [Message("user", f"{name}{number}"), Message("assistant", "!")]
            )

    await asyncio.gather(tab("x"), tab("y"))
    kept = await texts(messages, made.id)
    assert len(kept) == 80
    assert all(answer == "!" for answer in kept[1::2])
    for name in "xy":
        assert [t for t in kept if t[0] == name] == [f"{name}{n}" for n in range(20)]


async def test_a_message_is_settled_found_and_may_be_gone(
    sessions: SessionStore, messages: MessageStore
) -> None:
    made = await sessions.create()
    (pending,) = await messages.append(made.id, [Message("assistant", None, status="pending")])
    assert await messages.find_words("harbour", 5) == []
    pending.content, pending.status = "The harbour of Kraków 東京都 is old", "complete"
    await messages.settle([pending])
    for query in ("harbour", "HARB", "京都", "old 東京"):
        assert [n for n, _ in await messages.find_words(query, 5)] == [pending.number], query
    assert await messages.find_words('" OR * AND ( :', 5) == []
    assert await messages.find_words("harbour", 5, "sess_other") == []
    await sessions.delete(made.id)
    await messages.settle([pending])
    assert await messages.find_words("harbour", 5) == []


async def test_a_session_is_restored_as_it_was_and_never_twice(
    sessions: SessionStore, messages: MessageStore
) -> None:
    made = await sessions.create(title="T", tags=["x"], system="be brief", metadata={"a": [1]})
    odd = "nul \0, half \ud83d"[:5] + " 🎉\r\n\u2028"
    rows = await messages.append(made.id, [Message("user", odd), Message("system", "s")])
    await messages.append(
        made.id,
        [Message("user", [{"type": "text", "text": "p"}], {"name": "n"}, metadata={"k": 1})],
        replaces=rows[0].id,
    )
    before = await sessions.whole(made.id)
    with pytest.raises(Conflict):
        await sessions.restore(*before)
    await sessions.delete(made.id)
    await sessions.restore(*before)
    session, branches, kept = await sessions.whole(made.id)
    assert (session, branches) == before[:2]
    for old, new in zip(before[2], kept, strict=True):
        new.number = old.number  # of this database alone
        assert new == old
    assert await messages.find_words("p", 5)


async def test_pinned_messages_and_those_of_the_system_are_known_wherever_they_lie(
    sessions: SessionStore, messages: MessageStore
) -> None:
    made = await sessions.create()
    rows = await messages.append(made.id, [Message("system", "s"), *said(*"abcdef")])
    await messages.change(made.id, rows[2].id, {"pinned": True})
    await messages.append(made.id, said("x"), replaces=rows[5].id)
    current = (await sessions.get(made.id)).branch_id
    found = await messages.pinned(made.id, current, 100)
    assert [message.text for message in found] == ["s", "b"]
    assert await messages.pinned(made.id, current, 0) == []
    newest = await messages.before(made.id, current, 5, 2)
    assert [message.text for message in newest] == ["d", "c"]
