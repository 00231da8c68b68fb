"""Text on its way out: whole characters, and never a piece of a stop string."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tabagent.worker.text import TextStream

TEXT = "aé漢🦙\u0301 नि مرحبا"


def told(stream: TextStream, chunks: list[bytes]) -> str:
    return "".join(map(stream.feed, chunks)) + stream.flush()


def test_every_split_of_multibyte_text_gives_it_back_whole() -> None:
    data = TEXT.encode()
    for a, b in combinations(range(len(data) + 1), 2):
        stream = TextStream([])
        pieces = [stream.feed(data[:a]), stream.feed(data[a:b]), stream.feed(data[b:])]
        assert "".join(pieces) == TEXT
        assert "\ufffd" not in "".join(pieces)
        assert stream.flush() == ""


def test_single_bytes_give_whole_characters() -> None:
    stream = TextStream(["never"])
    pieces = [stream.feed(bytes([byte])) for byte in TEXT.encode()]
    assert [p for p in pieces if p] == list(TEXT)


def test_an_unfinished_character_at_the_end_is_replaced() -> None:
    stream = TextStream([])
    assert stream.feed("🦙".encode()[:3]) == ""
    assert stream.flush() == "\ufffd"


def test_bytes_that_are_no_text_are_replaced_and_the_rest_survives() -> None:
    assert told(TextStream([]), [b"a\xff", b"\xc3", b"b"]) == "a\ufffd\ufffdb"


@pytest.mark.parametrize("stop", ["END", "E", "🦙é", "\n\n", "aab", "abab"])
def test_a_stop_string_is_found_at_every_split(stop: str) -> None:
    data = f"one aa ab {stop} rest {stop}".encode()
    expected = f"one aa ab {stop}".partition(stop)[0]
    for a, b in combinations(range(len(data) + 1), 2):
        stream = TextStream([stop])
        assert told(stream, [data[:a], data[a:b], data[b:]]) == expected
        assert stream.stopped


def test_nothing_that_may_become_a_stop_string_is_sent_early() -> None:
    stream = TextStream(["\nUser:"])
    assert [stream.feed(c.encode()) for c in "hi\nUser"] == ["h", "i", "", "", "", "", ""]
    assert stream.feed(b"s") == "\nUsers"
    assert not stream.stopped


def test_a_beginning_that_repeats_itself_is_held_as_far_as_needed() -> None:
    stream = TextStream(["aab"])
    assert stream.feed(b"aaa") == "a"
    assert stream.feed(b"b") == ""
    assert stream.stopped
    assert stream.flush() == ""


def test_the_earliest_of_several_stop_strings_wins() -> None:
    stream = TextStream(["four", "two", "three"])
    assert told(stream, [b"one two three"]) == "one "


def test_one_stop_string_inside_another_stops_as_soon_as_it_is_there() -> None:
    stream = TextStream(["abcd", "bc"])
    assert told(stream, [b"a", b"b", b"c", b"d"]) == "a"


def test_what_was_held_comes_out_at_the_end() -> None:
    stream = TextStream(["STOP", "TOPS"])
    assert stream.feed(b"x STO") == "x "
    assert stream.flush() == "STO"
    assert not stream.stopped


def test_nothing_follows_a_stop_string() -> None:
    stream = TextStream(["."])
    assert stream.feed(b"a.b") == "a"
    assert stream.feed(b"more") == ""
    assert stream.flush() == ""


def test_an_empty_stop_string_stops_nothing() -> None:
    stream = TextStream(["", "x"])
    assert told(stream, [b"abc"]) == "abc"


def test_random_texts_agree_with_searching_the_whole() -> None:
    draw = random.Random(11)
    for _ in range(2000):
        text = "".join(draw.choices("abé🦙", k=draw.randrange(12)))
        stops = ["".join(draw.choices("abé🦙", k=draw.randint(1, 3))) for _ in range(2)]
        stream, data, sent = TextStream(stops), text.encode(), ""
        for byte in data:
            sent += stream.feed(bytes([byte]))
            assert not any(stop in sent for stop in stops)
        sent += stream.flush()
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        if not ends:
            assert sent == text
        else:  # cut before a stop string that was complete first
            first = min(ends)
            assert sent in {text[: first - len(s)] for s in stops if text[:first].endswith(s)}
            assert stream.stopped
