"""Clients and their tokens: what is acknowledged is kept, and of a token nothing that opens a door."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time
from typing import Any

import pytest

from tabagent.errors import NotFound
from tabagent.operation import Access
from tabagent.stores.clients import TOKENS, ClientStore
from tabagent.stores.database import Database
from tests.bridge import client_of

FOX = "chrome-extension://abcdefghijklmnopabcdefghijklmnop"
OWL = "moz-extension-id:owl@birds.example"
OWL_PAGE = "moz-extension://0a1b2c3d-0000-4000-8000-00000000000f"


@pytest.fixture
def store(database: Database) -> ClientStore:
    return ClientStore(database)


async def again(database: Database) -> ClientStore:
    """What the next start of the server reads."""
    store = ClientStore(database)
    await asyncio.to_thread(store.read)
    return store


async def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    return await asyncio.to_thread(database.run, statement)


async def test_a_client_and_its_token_are_there_after_a_start(
    database: Database, store: ClientStore
) -> None:
    fox = await store.approve(FOX, "Fox", Access.USER)
    token = await store.issue_token(fox.id)
    assert fox.id.startswith("cl_")
    for each in (store, await again(database)):
        assert each.of_origin(FOX) == fox
        assert client_of(each, token) == fox
        assert client_of(each, token + "x") is None
        assert client_of(each, "") is None
        assert each.all() == [fox]
        assert set(each.origins()) == {FOX}


async def test_an_empty_database_has_no_clients(place: Path | str) -> None:
    store = ClientStore(Database(place))
    if isinstance(place, Path):  # one that was never made is read as empty, and not made
        await asyncio.to_thread(store.read)
        assert not place.exists()
    assert store.all() == []
    assert client_of(store, "t" * 43) is None


async def test_approving_again_changes_name_and_access_and_nothing_else(
    database: Database, store: ClientStore
) -> None:
    fox = await store.approve(FOX, "Fox", Access.USER)
    token = await store.issue_token(fox.id)
    vixen = await store.approve(FOX, "Vixen", Access.ADMIN)
    assert (vixen.id, vixen.name, vixen.access) == (fox.id, "Vixen", Access.ADMIN)
    for each in (store, await again(database)):
        assert client_of(each, token) == vixen
        assert each.all() == [vixen]


async def test_no_token_is_in_the_database_or_in_anything_shown(
    database: Database, store: ClientStore
) -> None:
    fox = await store.approve(FOX, "Fox", Access.USER)
    token = await store.issue_token(fox.id)
    assert len(token) >= 43  # 32 random bytes
    kept = await rows(database, "SELECT * FROM client_tokens")
    assert len(kept) == 1
    shown = f"{kept} {await rows(database, 'SELECT * FROM clients')} {fox!r} {vars(store)!r}"
    assert token not in shown


async def test_a_revoked_client_is_gone_with_all_its_tokens(
    database: Database, store: ClientStore
) -> None:
    fox = await store.approve(FOX, "Fox", Access.ADMIN)
    owl = await store.approve(OWL, "Owl", Access.USER)
    tokens = [await store.issue_token(fox.id) for _ in range(2)]
    kept = await store.issue_token(owl.id)
    assert await store.revoke(fox.id) == fox
    for each in (store, await again(database)):
        assert [client_of(each, token) for token in tokens] == [None, None]
        assert each.of_origin(FOX) is None
        assert FOX not in each.origins()
        assert client_of(each, kept) == owl
    assert len(await rows(database, "SELECT digest FROM client_tokens")) == 1
    for late in (store.revoke(fox.id), store.issue_token(fox.id)):
        with pytest.raises(NotFound):
            await late
    assert (await store.approve(FOX, "Fox", Access.USER)).id != fox.id


async def test_of_too_many_tokens_the_longest_unused_goes(
    database: Database, store: ClientStore
) -> None:
    fox = await store.approve(FOX, "Fox", Access.USER)
    tokens = [await store.issue_token(fox.id) for _ in range(TOKENS)]
    assert client_of(store, tokens[0]) == fox  # used just now, though it is the oldest
    newest = await store.issue_token(fox.id)
    for each in (store, await again(database)):
        assert client_of(each, tokens[1]) is None
        assert all(client_of(each, token) for token in [tokens[0], *tokens[2:], newest])
        assert each.token_count(fox.id) == TOKENS


async def test_a_token_knows_where_its_requests_come_from(
    database: Database, store: ClientStore
) -> None:
    """An add-on of Firefox has another origin in each profile, and its native id is none at all."""
    owl = await store.approve(OWL, "Owl", Access.USER)
    token = await store.issue_token(owl.id, OWL_PAGE)
    other = await store.issue_token(owl.id)
    for each in (store, await again(database)):
        assert each.holder(token) == (owl, OWL_PAGE)
        assert each.holder(other) == (owl, OWL)
        assert set(each.origins()) == {OWL_PAGE}
    await store.revoke(owl.id)
    assert set(store.origins()) == set()


async def test_uses_are_seen_at_once_and_written_now_and_then(
    database: Database, place: Path | str
) -> None:
    store = ClientStore(database, write_uses_s=0.05)
    fox = await store.approve(FOX, "Fox", Access.USER)
    assert fox.last_used_at is None
    store.used(fox.id)
    store.used("cl_nobody")
    seen = store.all()[0].last_used_at
    assert seen is not None and abs(seen - time()) < 5
    assert (await rows(database, "SELECT last_used_at FROM clients")) == [(None,)]
    async with asyncio.timeout(5):
        while (await rows(database, "SELECT last_used_at FROM clients")) != [(seen,)]:
            await asyncio.sleep(0.01)
    await store.stop()


async def test_uses_that_are_not_written_yet_are_written_at_the_end(
    database: Database, store: ClientStore
) -> None:
    fox = await store.approve(FOX, "Fox", Access.USER)
    token = await store.issue_token(fox.id)
    before = await rows(database, "SELECT used_at FROM client_tokens")
    assert client_of(store, token)
    store.used(fox.id)
    await store.stop()
    assert (await rows(database, "SELECT used_at FROM client_tokens")) > before
    assert (await again(database)).all()[0].last_used_at is not None


async def test_what_has_begun_is_kept_though_its_asker_left(
    database: Database, store: ClientStore
) -> None:
    asked = asyncio.create_task(store.approve(FOX, "Fox", Access.USER))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    async with asyncio.timeout(5):
        while store.of_origin(FOX) is None:
            await asyncio.sleep(0.01)
    assert (await again(database)).of_origin(FOX) == store.of_origin(FOX)
