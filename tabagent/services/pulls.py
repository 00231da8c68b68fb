"""Pulling models from the hub, letting go of what was pulled, and the hub's token."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal

from pydantic import Field, SecretStr

from tabagent.catalog.models import Model
from tabagent.errors import ModelBusy, NotAvailableHere
from tabagent.hub.jobs import Jobs
from tabagent.hub.owned import delete
from tabagent.hub.repository import check_name, choose, repository
from tabagent.hub.token import HubToken, Source
from tabagent.journal import Journal
from tabagent.operation import Call, NoParameters, Reply, Request
from tabagent.parameters import Flag
from tabagent.replies.changes import ModelChange, SettingChange
from tabagent.replies.pulls import Pull

Find = Callable[[str], Awaitable[Model]]


class PullRequest(Request):
    """A repository of the hub, `owner/repo`, and which variant of it.

    The variant may be its name (`Q4_K_M`), the beginning of one (`q4`), a file's name or `best`, the
    largest that fits into memory; left out, a small one of which little is lost.
    """

    model_config = {"json_schema_extra": {"examples": [{"model": "owner/repo:Q4_K_M"}]}}

    model: str = Field(max_length=300, description="`owner/repo` or `owner/repo:VARIANT`.")
    stream: Flag | None = Field(False, description="Send the progress as server-sent events.")


class PullId(Request):
    """A pull by its id, as `list_pulls` and the pull's own events give it."""

    model_config = {"json_schema_extra": {"examples": [{"id": "9f2c41d07b3e"}]}}

    id: str = Field(max_length=40)


class PullList(Reply):
    """Every pull of this server, the oldest first."""

    object: Literal["list"] = "list"
    data: list[Pull]


class DeleteRequest(Request):
    """A model that was pulled."""

    model_config = {"json_schema_extra": {"examples": [{"model": "owner/repo:Q4_K_M"}]}}

    model: str = Field(max_length=300)


class Deleted(Reply):
    """What is gone."""

    model: str
    files: list[str]
    freed_bytes: int
    was_selected: bool = Field(
        description="It answered requests that name no model; the built-in one does now."
    )


class TokenRequest(Request):
    """The token of an account on the hub."""

    model_config = {"json_schema_extra": {"examples": [{"token": "hf_your_own_token"}]}}

    token: SecretStr = Field(min_length=8, max_length=512)


class TokenStatus(Reply):
    """Whether there is a token, and where; never the token."""

    set: bool
    source: Source | None


class RepoName(Request):
    """A repository of the hub."""

    model_config = {"json_schema_extra": {"examples": [{"repo_id": "owner/repo"}]}}

    repo_id: str = Field(max_length=200)


class Quant(Reply):
    """A variant of a repository."""

    name: str
    size_bytes: int
    files: list[str]
    fits: bool = Field(description="Whether its weights leave room in this machine's memory.")
    here: bool = Field(description="Whether it is on this machine already.")


class QuantList(Reply):
    """Every variant, the largest first."""

    object: Literal["list"] = "list"
    repo_id: str
    data: list[Quant]


class Pulls:
    """`fits` says whether so many bytes of weights leave room; `loaded` whether a model runs.

    `forget` is told that a model is gone, and says whether it was the selected one.
    """

    def __init__(
        self,
        jobs: Jobs,
        token: HubToken,
        endpoint: str,
        *,
        offline: bool,
        find: Find,
        fits: Callable[[int], bool],
        loaded: Callable[[str], bool],
        forget: Callable[[str], Awaitable[bool]],
        journal: Journal,
    ) -> None:
        self._jobs, self._token, self._endpoint = jobs, token, endpoint
        self._offline, self._find, self._fits, self._loaded = offline, find, fits, loaded
        self._forget, self._journal = forget, journal

    async def pull(self, request: PullRequest, call: Call) -> AsyncGenerator[Pull, None]:
        """Get a model from the hub.

        The pull is the server's: it goes on when the caller leaves, and asking again follows it.
        What was cut off is resumed where it was; a file appears only when its digest is right.
        """
        self._online()
        repo, wish = check_name(request.model)
        token = await asyncio.to_thread(self._token.value)
        found = await repository(repo, self._endpoint, token)
        job = await self._jobs.start(found, choose(found, wish, self._fits))
        async with aclosing(self._jobs.follow(job)) as states:
            async for state in states:
                if state.error is not None:
                    raise state.error
                yield Pull.of(state)

    async def list(self, request: NoParameters, call: Call) -> PullList:
        """List the pulls of this server, also those that an earlier one did not finish."""
        return PullList(data=[Pull.of(job) for job in self._jobs.all()])

    async def cancel(self, request: PullId, call: Call) -> Pull:
        """Stop a pull. What has come is kept, and `resume` goes on from there."""
        return Pull.of(await self._jobs.cancel(request.id))

    async def resume(self, request: PullId, call: Call) -> Pull:
        """Go on with a pull that was cancelled, failed or cut off."""
        self._online()
        return Pull.of(await self._jobs.resume(request.id))

    async def quants(self, request: RepoName, call: Call) -> QuantList:
        """List a repository's variants with their sizes, before any of it is pulled."""
        self._online()
        repo, _ = check_name(request.repo_id)
        token = await asyncio.to_thread(self._token.value)
        found = await repository(repo, self._endpoint, token)
        here = await asyncio.to_thread(self._jobs.here, repo)
        return QuantList(
            repo_id=repo,
            data=[
                Quant(
                    name=variant.name,
                    size_bytes=variant.size,
                    files=[file.path for file in variant.files],
                    fits=self._fits(variant.size),
                    here=all(file.path in here for file in variant.files),
                )
                for variant in found.variants
            ],
        )

    async def delete(self, request: DeleteRequest, call: Call) -> Deleted:
        """Remove a model that was pulled, and say what that freed. It must not be loaded."""
        model = await self._find(request.model)
        if self._loaded(model.id):
            raise ModelBusy(f"{model.id} is loaded: unload it first")
        files, freed = await asyncio.to_thread(delete, model, self._jobs.models)
        self._journal.note("model", model.id, ModelChange(model=model.id, state="deleted"))
        was_selected = await self._forget(model.id)
        return Deleted(model=model.id, files=files, freed_bytes=freed, was_selected=was_selected)

    async def set_token(self, request: TokenRequest, call: Call) -> TokenStatus:
        """Keep a token for private and gated repositories; in the keyring where one works."""
        source = await asyncio.to_thread(self._token.set, request.token.get_secret_value())
        self._tell_token(True)
        return TokenStatus(set=True, source=source)

    async def token_status(self, request: NoParameters, call: Call) -> TokenStatus:
        """Say whether there is a token, and where it lies."""
        found = await asyncio.to_thread(self._token.find)
        return TokenStatus(set=found is not None, source=found[1] if found else None)

    async def clear_token(self, request: NoParameters, call: Call) -> TokenStatus:
        """Forget the token."""
        await asyncio.to_thread(self._token.clear)
        self._tell_token(False)
        return await self.token_status(request, call)

    def states(self) -> Counter[str]:
        """How many pulls are in which state."""
        return Counter(job.state for job in self._jobs.all())

    async def stop(self) -> None:
        """Stop what runs; the next server can resume it."""
        await self._jobs.stop()

    def _tell_token(self, there: bool) -> None:
        change = SettingChange(name="hf_token", value={"set": there})
        self._journal.note("setting", change.name, change)

    def _online(self) -> None:
        if self._offline:
            raise NotAvailableHere(
                "HF_HUB_OFFLINE is set: nothing is asked of the hub", what="pull", why="offline"
            )


async def fold_pull(events: AsyncIterator[Pull]) -> Pull:
    """The plain reply: the pull at its end."""
    last: Pull | None = None
    async for event in events:
        last = event
    assert last is not None, "a pull tells of itself at least once"
    return last
