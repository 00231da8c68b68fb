"""Frames: any chunking gives the same bodies, and a broken length ends it."""

from __future__ import annotations

import random

import pytest

from tabagent.frames import HEADER, MAX_FRAME, FrameDecoder, FrameError, encode

BODIES = [b"", b"a", b"\0" * 5, bytes(range(256)), b"x" * 70_000, b"", "größer".encode()]
STREAM = b"".join(map(encode, BODIES))


def test_a_frame_is_its_length_in_native_order_and_its_body() -> None:
    assert encode(b"abc") == HEADER.pack(3) + b"abc"
    assert len(HEADER.pack(0)) == 4


def test_whole_frames_in_one_chunk_come_out_at_once() -> None:
    assert FrameDecoder().feed(STREAM) == BODIES


def test_every_split_in_two_gives_the_same_bodies() -> None:
    short = b"".join(map(encode, BODIES[:4]))
    for cut in range(len(short) + 1):
        decoder = FrameDecoder()
        assert decoder.feed(short[:cut]) + decoder.feed(short[cut:]) == BODIES[:4]


def test_single_bytes_give_the_same_bodies() -> None:
    decoder = FrameDecoder()
    assert [body for byte in STREAM for body in decoder.feed(bytes([byte]))] == BODIES


def test_random_chunks_give_the_same_bodies() -> None:
    draw = random.Random(5)
    for _ in range(50):
        decoder, found, at = FrameDecoder(), [], 0
        while at < len(STREAM):
            size = draw.choice([0, 1, 3, 4, 5, 100, 65536])
            found += decoder.feed(STREAM[at : at + size])
            at += size
        assert found == BODIES


def test_a_truncated_frame_gives_nothing_until_its_end_arrives() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode(b"whole") + encode(b"half")[:-1]) == [b"whole"]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"f") == [b"half"]


def test_a_body_of_the_largest_size_passes_both_ways() -> None:
    largest = bytes(MAX_FRAME)
    (body,) = FrameDecoder().feed(encode(largest))
    assert len(body) == MAX_FRAME


def test_a_body_over_the_limit_is_not_sent() -> None:
    with pytest.raises(FrameError, match=str(MAX_FRAME)):
        encode(bytes(MAX_FRAME + 1))


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_length_over_the_limit_is_refused_before_its_body_comes(length: int) -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameError):
        decoder.feed(encode(b"good") + HEADER.pack(length))


def test_nothing_is_believed_after_a_broken_length() -> None:
    decoder = FrameDecoder()
    for data in (HEADER.pack(MAX_FRAME + 1), b"", encode(b"good")):
        with pytest.raises(FrameError):
            decoder.feed(data)
