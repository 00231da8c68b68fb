"""A file from a hub that misbehaves: the right bytes, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tabagent.errors import (
    AccessDenied,
    ChecksumMismatch,
    InsufficientStorage,
    ModelNotFound,
    TabAgentError,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from tabagent.hub.download import Download
from tabagent.hub.patience import Patience
from tabagent.hub.repository import RemoteFile
from tests.hub.fake_hub import COMMIT, Asked, FakeHub, Misbehave, Reply, bomb

NAME = "model-Q4_K_M.gguf"
BODY = random.Random(1).randbytes(300_000)
FILE = RemoteFile(NAME, len(BODY), hashlib.sha256(BODY).hexdigest(), None)
TOKEN = "hf_" + "s" * 20


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({NAME: BODY}) as hub:
        yield hub


class Getter:
    """Downloads into a folder; how long it was told to wait is in `waits`."""

    def __init__(self, hub: FakeHub, folder: Path, retries: int = 3) -> None:
        self.part, self.target = folder / "parts" / "x.part", folder / "models" / NAME
        self.waits: list[float] = []
        self.noted: list[int] = []
        self._hub, self._retries = hub, retries

    def get(self, token: str | None = None) -> None:
        asyncio.run(self._get(token))

    async def _get(self, token: str | None) -> None:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        patience = Patience(stall_s=0.3, retries=self._retries, first_wait_s=0.01)
        async with httpx.AsyncClient(trust_env=False, timeout=0.3) as client:
            download = Download(client, self._hub.url, token, self.noted.append, patience, sleep)
            await download.fetch(self._hub.repo, COMMIT, FILE, self.part, self.target)

    def whole(self) -> bool:
        return self.target.read_bytes() == BODY and not self.part.exists()

    def nothing(self) -> bool:
        return not self.target.exists()


@pytest.fixture
def getter(hub: FakeHub, tmp_path: Path) -> Getter:
    return Getter(hub, tmp_path)


def times(number: int, what: Misbehave) -> Misbehave:
    """Misbehave so often, then no more."""
    left = [number]

    def once(asked: Asked, body: bytes) -> Reply | None:
        left[0] -= 1
        return what(asked, body) if left[0] >= 0 else None

    return once


def test_a_file_comes_whole(getter: Getter) -> None:
    getter.get()
    assert getter.whole()
    assert getter.noted[-1] == len(BODY)


@pytest.mark.parametrize("at", [0, 1, 4095, 65_536, 150_000, len(BODY) - 1])
def test_cut_at_any_byte_it_goes_on_from_there(hub: FakeHub, getter: Getter, at: int) -> None:
    hub.misbehave = times(1, lambda asked, body: Reply(body=body, cut=at))
    getter.get()
    assert getter.whole()
    assert [asked.start for asked in hub.asked] == [0, at]


def test_cut_again_and_again_it_comes_as_long_as_it_moves(hub: FakeHub, getter: Getter) -> None:
    def little(asked: Asked, body: bytes) -> Reply:
        right = FakeHub.right(asked, body)
        right.cut = 30_000
        return right

    hub.misbehave = little
    getter.get()
    assert getter.whole()
    assert len(hub.asked) == 10


def test_a_stall_is_noticed_and_resumed(hub: FakeHub, getter: Getter) -> None:
    hub.misbehave = times(1, lambda asked, body: Reply(body=body, cut=100_000, stall=True))
    getter.get()
    assert getter.whole()
    assert hub.asked[-1].start == 100_000


def test_a_hub_that_never_answers_is_given_up(hub: FakeHub, getter: Getter) -> None:
    hub.misbehave = lambda asked, body: Reply(body=body, cut=0, stall=True)
    with pytest.raises(UpstreamUnreachable, match="stalled"):
        getter.get()
    assert getter.nothing()
    assert getter.waits == [0.01, 0.02, 0.04]


def test_wrong_bytes_of_the_right_length_are_found_and_thrown_away(
    hub: FakeHub, getter: Getter
) -> None:
    hub.misbehave = lambda asked, body: Reply(body=bytes(len(body)))
    with pytest.raises(ChecksumMismatch):
        getter.get()
    assert getter.nothing()
    assert not getter.part.exists()


def test_what_is_longer_than_declared_is_refused_and_not_written(
    hub: FakeHub, getter: Getter
) -> None:
    hub.misbehave = lambda asked, body: Reply(body=body + bytes(50_000_000))
    with pytest.raises(UpstreamInvalid, match="longer"):
        getter.get()
    assert getter.nothing()
    assert max(getter.noted) <= len(BODY)


def test_what_is_shorter_than_declared_is_asked_for_again(hub: FakeHub, getter: Getter) -> None:
    hub.misbehave = times(1, lambda asked, body: Reply(body=body[:1000]))
    getter.get()
    assert getter.whole()


def test_a_file_that_changes_midway_is_found_by_its_digest(hub: FakeHub, getter: Getter) -> None:
    other = bytes(len(BODY))

    def changed(asked: Asked, body: bytes) -> Reply:
        if asked.start == 0:
            return Reply(body=body, cut=100_000)
        return FakeHub.right(asked, other)

    hub.misbehave = changed
    with pytest.raises(ChecksumMismatch):
        getter.get()
    assert getter.nothing()
    hub.misbehave = lambda asked, body: None
    getter.get()
    assert getter.whole()


def test_a_hub_that_ignores_ranges_sends_all_of_it_again(hub: FakeHub, getter: Getter) -> None:
    def whole(asked: Asked, body: bytes) -> Reply:
        return Reply(body=body, cut=100_000 if asked.start == 0 else None)

    hub.misbehave = whole
    getter.get()
    assert getter.whole()


@pytest.mark.parametrize("said", ["bytes 5-299999/300000", "bytes 100000-299999/999", "nonsense"])
def test_another_range_than_was_asked_for_is_refused(
    hub: FakeHub, getter: Getter, said: str
) -> None:
    def shifted(asked: Asked, body: bytes) -> Reply:
        if asked.start == 0:
            return Reply(body=body, cut=100_000)
        return Reply(206, {"Content-Range": said}, body[asked.start :])

    hub.misbehave = shifted
    with pytest.raises(UpstreamInvalid, match="another range"):
        getter.get()
    assert getter.nothing()


def test_a_range_that_the_hub_does_not_know_begins_anew(hub: FakeHub, getter: Getter) -> None:
    def unknown(asked: Asked, body: bytes) -> Reply:
        return Reply(416) if asked.start else Reply(body=body, cut=len(hub.asked) * 100_000)

    hub.misbehave = times(2, unknown)
    getter.get()
    assert getter.whole()


def test_the_token_does_not_follow_to_another_host(hub: FakeHub, getter: Getter) -> None:
    with FakeHub({NAME: BODY}) as elsewhere:
        hub.elsewhere = elsewhere
        getter.get(TOKEN)
        assert getter.whole()
        assert hub.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
        assert all("authorization" not in asked.headers for asked in elsewhere.asked)


@pytest.mark.parametrize(
    "where", ["ftp://127.0.0.1/x", "file:///etc/passwd", "//user@127.0.0.1/x", ""]
)
def test_a_redirect_to_where_nobody_should_go_is_refused(
    hub: FakeHub, getter: Getter, where: str
) -> None:
    hub.misbehave = lambda asked, body: Reply(302, {"Location": where})
    with pytest.raises(UpstreamInvalid, match="redirects"):
        getter.get()


def test_a_circle_of_redirects_ends(hub: FakeHub, getter: Getter) -> None:
    hub.misbehave = lambda asked, body: Reply(302, {"Location": asked.path})
    with pytest.raises(UpstreamInvalid, match="circle"):
        getter.get()
    assert len(hub.asked) < 10


def test_a_bomb_is_not_unpacked(hub: FakeHub, getter: Getter) -> None:
    packed = bomb(100_000_000)
    hub.misbehave = lambda asked, body: Reply(headers={"Content-Encoding": "gzip"}, body=packed)
    with pytest.raises(UpstreamInvalid, match="encoded"):
        getter.get()
    assert getter.nothing()
    assert hub.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AccessDenied), (403, AccessDenied), (404, ModelNotFound), (410, ModelNotFound),
     (418, UpstreamInvalid)],
)  # fmt: skip
def test_a_refusal_is_final(
    hub: FakeHub, getter: Getter, status: int, error: type[TabAgentError]
) -> None:
    hub.misbehave = lambda asked, body: Reply(status)
    with pytest.raises(error):
        getter.get()
    assert len(hub.asked) == 1


def test_who_is_asked_to_wait_waits_as_long_as_that(hub: FakeHub, getter: Getter) -> None:
    hub.misbehave = times(2, lambda asked, body: Reply(429, {"Retry-After": "7"}))
    getter.get()
    assert getter.whole()
    assert getter.waits == [7, 7]


def test_a_server_error_is_tried_again_with_growing_pauses(hub: FakeHub, getter: Getter) -> None:
    hub.misbehave = times(3, lambda asked, body: Reply(500))
    getter.get()
    assert getter.whole()
    assert getter.waits == [0.01, 0.02, 0.04]


def test_a_slow_hub_is_no_stalled_one(hub: FakeHub, getter: Getter) -> None:
    hub.misbehave = lambda asked, body: Reply(body=body, pace=(30_000, 0.05))
    getter.get()
    assert getter.whole()
    assert len(hub.asked) == 1


def test_a_hub_that_has_vanished_is_unreachable(tmp_path: Path) -> None:
    with FakeHub({NAME: BODY}) as gone:
        pass
    with pytest.raises(UpstreamUnreachable):
        Getter(gone, tmp_path, retries=1).get()


def test_what_an_earlier_try_left_is_read_again_and_too_much_of_it_thrown_away(
    hub: FakeHub, getter: Getter
) -> None:
    getter.part.parent.mkdir()
    getter.part.write_bytes(BODY[:123_456])
    getter.get()
    assert getter.whole()
    assert hub.asked[0].start == 123_456
    getter.target.unlink()
    getter.part.write_bytes(BODY + b"more")
    getter.get()
    assert getter.whole()


def test_a_full_disk_says_so_and_keeps_what_has_come(
    hub: FakeHub, getter: Getter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InsufficientStorage):
            getter.get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert getter.nothing()
    getter.get()
    assert getter.whole()
