"""A thousand streams of frames, good and bad, through real hosts; each answer is known before."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from native_host import relay
from tests.native_host.hosts import HostProcess, Place, framed
from tests.native_host.plain_server import as_object

BATCHES: Final = 42  # a process each
STREAMS: Final = 25  # of each process, one after the other
HUGE: Final = (3, 17)  # batches with a frame over the limit that really comes, all of it


def some_body(chance: random.Random, name: str) -> bytes:
    kind = chance.randrange(9)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        return b"[" * chance.randrange(1, 60_000)
    if kind == 2:
        depth = chance.randrange(1, 3000)
        return b'{"payload":' * depth + b"1" + b"}" * depth
    if kind == 3:
        return b""
    if kind == 4:
        return chance.choice(
            (b"null", b"1e999", b'"\xff"', b'{"request_id":"\\ud800"}', b"{}", b" ")
        )
    if kind == 5:
        return json.dumps({"request_id": "x" * chance.choice((0, 1, 64, 65, 1000))}).encode()
    text = "".join(chance.choice('aä€😀"\\\n\x00') for _ in range(chance.randrange(1, 400)))
    message = {"request_id": name, "route": "echo", "payload": {"text": text}}
    return json.dumps(message, ensure_ascii=chance.random() < 0.5).encode()


def a_stream(chance: random.Random, name: str) -> bytes:
    """Whole frames."""
    return b"".join(framed(some_body(chance, f"{name}.{n}")) for n in range(chance.randrange(1, 4)))


def a_bad_end(chance: random.Random) -> bytes:
    """What a dying or a mad browser leaves behind."""
    frame = framed(some_body(chance, "end") + b" " * chance.randrange(1, 300))
    kind = chance.randrange(4)
    if kind == 0:
        return frame[: chance.randrange(1, len(frame))]  # cut off
    if kind == 1:
        return frame[3::-1] + frame[4:]  # the length the other way round
    if kind == 2:
        return chance.randbytes(chance.randrange(1, 60))
    length = chance.randrange(relay.MOST + 1, 2**32)
    return length.to_bytes(4, sys.byteorder) + frame[4:]


def expected(data: bytes) -> list[bytes | None]:
    """Each body that is whole; None for one over the limit that was passed over."""
    found: list[bytes | None] = []
    while len(data) >= 4:
        length = int.from_bytes(data[:4], sys.byteorder)
        body, data = data[4 : 4 + length], data[4 + length :]
        if len(body) < length:
            break
        found.append(body if length <= relay.MOST else None)
    return found


def pour(host: HostProcess, data: bytes, chance: random.Random) -> None:
    """Cut anywhere, often within a header."""
    at = 0
    while at < len(data):
        if len(data) - at < relay.MOST // 2:
            step = chance.choice((1, 2, 3, 5, 64, 4096, 70_000))
        else:
            step = 2**22
        host.stdin.write(data[at : at + step])
        host.stdin.flush()
        at += step


def answer_of(body: bytes) -> dict[str, Any]:
    return {"bytes": len(body), "digest": hashlib.sha256(body).hexdigest()}


def request_id(body: bytes) -> str | None:
    found = as_object(body).get("request_id")
    return found if isinstance(found, str) and 1 <= len(found) <= 64 else None


@pytest.mark.timeout(120)
@pytest.mark.parametrize("served", [True, False], ids=["with a server", "without one"])
def test_whatever_comes_the_answers_are_whole_frames_and_it_ends(
    tmp_path: Path, served: bool
) -> None:
    place = Place(tmp_path / "d")
    if served:
        with place.server():
            _all_batches(place, served=True)
    else:
        _all_batches(place, served=False)


def _all_batches(place: Place, *, served: bool) -> None:
    for batch in range(not served, BATCHES, 2):
        chance = random.Random(batch)
        data = b"".join(a_stream(chance, f"{batch}.{n}") for n in range(STREAMS - 1))
        if batch in HUGE:
            data += framed(bytes(relay.MOST + 1)) + a_stream(chance, "after")
        data += a_bad_end(chance)
        bodies = expected(data)
        with place.host() as host:
            pour(host, data, chance)
            said = [host.receive(30) for _ in bodies]
            more = [one for one in host.finish() if one.get("event") != "status"]
            assert host.process.returncode == 0
            assert host.said_to_stderr() == ""
        assert more == [], batch
        if served:
            # The host's own words overtake the server's.
            refused = [one for one in said if "error" in one]
            said = [one for one in said if "error" not in one]
            assert [one["error"]["code"] for one in refused] == (
                ["payload-too-large"] * bodies.count(None)
            )
            assert [one["data"] for one in said] == [
                answer_of(body) for body in bodies if body is not None
            ], batch
        else:
            codes = ["payload-too-large" if b is None else "server-unreachable" for b in bodies]
            assert [one["error"]["code"] for one in said] == codes
            ids = [None if body is None else request_id(body) for body in bodies]
            assert [one["request_id"] for one in said] == ids, batch


def test_there_are_a_thousand_of_them() -> None:
    assert BATCHES * STREAMS >= 1000
