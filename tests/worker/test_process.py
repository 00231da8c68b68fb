"""The real child process over its real pipes; only the weights are missing."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tabagent import wire
from tabagent.frames import HEADER, encode
from tests.live import eventually
from tests.worker.child import Child, generate


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as started:
        yield started


@pytest.fixture
def loaded(child: Child) -> Child:
    child.load()
    return child


def left_within(child: Child, seconds: float) -> int:
    """Its exit code, which must come in time."""
    began = time.monotonic()
    code = child.process.wait(10)
    assert time.monotonic() - began < seconds
    return code


# ---- the talk -----------------------------------------------------------------------------------
def test_it_greets_first_and_says_who_it_is(child: Child) -> None:
    assert child.hello == wire.Hello(child.process.pid, wire.PROTOCOL, "fake 1")


def test_it_loads_and_tells_how_far_it_is(child: Child) -> None:
    child.say(wire.Load(9, "/slow", 256, 1, 256, 1, 60.0))
    fractions = [child.next(wire.Progress).fraction for _ in range(10)]
    assert fractions == sorted(fractions)
    assert child.next(wire.Done).id == 9


def test_a_generation_comes_in_pieces_and_ends_once(loaded: Child) -> None:
    loaded.say(generate(2, "3"))
    pieces = [loaded.next(wire.Pieces).items for _ in range(3)]
    assert pieces == [
        [wire.Piece(2, 1, "1 ")],
        [wire.Piece(2, 2, "2 ")],
        [wire.Piece(2, 3, "3 ", end=wire.Ending("stop", "eos"))],
    ]
    end = loaded.next(wire.Finished)
    assert (end.id, end.usage.completion_tokens) == (2, 3)


def test_every_choice_of_a_generation_ends_before_it_is_finished(loaded: Child) -> None:
    loaded.say(generate(2, "2", n=2))
    pieces = [piece for _ in range(3) for piece in loaded.next(wire.Pieces).items]
    ends = [(piece.index, piece.tokens) for piece in pieces if piece.end]
    assert ends == [(0, 2), (1, 3)]
    assert loaded.next(wire.Finished).usage.completion_tokens == 5


def test_several_generations_run_together(loaded: Child) -> None:
    loaded.say(*(generate(id_, "5 sleep") for id_ in (2, 3, 4)))
    told = {2: "", 3: "", 4: ""}
    together, ended = 0, set[int]()
    while ended != set(told):
        event = loaded.event()
        if isinstance(event, wire.Pieces):
            together = max(together, len(event.items))
            for piece in event.items:
                told[piece.id] += piece.text
        elif isinstance(event, wire.Finished):
            ended.add(event.id)
    assert set(told.values()) == {"1 2 3 4 5 "}
    assert together == 3


def told(child: Child, id_: int) -> tuple[list[wire.Piece], wire.Event]:
    """All pieces of a generation, and its answer."""
    pieces: list[wire.Piece] = []
    while (event := child.event()) is not None:
        if isinstance(event, wire.Pieces):
            pieces += [piece for piece in event.items if piece.id == id_]
        elif isinstance(event, wire.Finished | wire.Failed) and event.id == id_:
            return pieces, event
    raise AssertionError("the worker left without an answer")


def ends(event: object) -> bool:
    return isinstance(event, wire.Finished)


def test_the_vocabulary_answers_beside_a_generation(loaded: Child) -> None:
    loaded.say(generate(2, "1000 sleep"), wire.Tokenize(3, "ab"), wire.Detokenize(4, [104, 105]))
    assert loaded.answer(3) == wire.Done(3, {"tokens": [97, 98], "pieces": ["a", "b"]})
    loaded.say(wire.Detokenize(5, [104, 105]))
    assert loaded.answer(5) == wire.Done(5, {"text": "hi"})


def test_a_refused_request_fails_once_and_frees_everything(loaded: Child) -> None:
    loaded.say(generate(2, "x" * 5000))
    failed = loaded.next(wire.Failed)
    assert (failed.id, failed.slug) == (2, "context-length-exceeded")
    assert failed.members["prompt_tokens"] == 5000
    loaded.say(wire.Cancel(2, halt=True), generate(3, "1"))
    assert loaded.text(3)[0] == "1 "  # and the late halt has added no second answer


def test_a_cancel_frees_the_slot_without_an_answer(loaded: Child) -> None:
    loaded.say(generate(2, "100000 sleep"))
    loaded.next(wire.Pieces)
    loaded.say(wire.Cancel(2))
    eventually(lambda: loaded.beats and loaded.beats[-1].slots_used == 0)
    loaded.say(wire.Shutdown())
    assert all(isinstance(event, wire.Pieces) for event in loaded.rest())


def test_a_halt_frees_the_slot_and_finishes_in_order(loaded: Child) -> None:
    loaded.say(generate(2, "100000 sleep", n=3))
    loaded.next(wire.Pieces)
    loaded.say(wire.Cancel(2, halt=True))
    pieces, end = told(loaded, 2)
    assert isinstance(end, wire.Finished)
    halted = [piece.index for piece in pieces if piece.end == wire.Ending("stop", "halted")]
    assert halted == [0, 1, 2]
    eventually(lambda: loaded.beats[-1].slots_used == 0)


def test_a_halt_says_nothing_of_choices_that_had_ended(loaded: Child) -> None:
    loaded.say(generate(2, "1 sleep", n=4))
    first = loaded.next(wire.Pieces).items
    loaded.say(wire.Cancel(2, halt=True))
    pieces, _ = told(loaded, 2)
    assert sorted(piece.index for piece in [*first, *pieces] if piece.end) == [0, 1, 2, 3]


def test_a_request_halted_at_once_is_answered_once(loaded: Child) -> None:
    ids = range(10, 40)
    for id_ in ids:
        loaded.say(generate(id_, "100000 sleep", n=2), wire.Cancel(id_, halt=True))
        pieces, end = told(loaded, id_)
        assert isinstance(end, wire.Finished)
        assert [p.index for p in pieces if p.end == wire.Ending("stop", "halted")] == [0, 1]
    loaded.say(wire.Shutdown())
    assert not any(ends(event) for event in loaded.rest())


def test_cancelling_what_is_not_there_changes_nothing(loaded: Child) -> None:
    loaded.say(wire.Cancel(77), wire.Cancel(78, halt=True), generate(2, "1"))
    assert loaded.text(2)[0] == "1 "


# ---- the heart ----------------------------------------------------------------------------------
def test_the_heart_beats_while_the_engine_is_stuck(loaded: Child) -> None:
    loaded.say(generate(2, "10 stall"))
    eventually(lambda: loaded.beats and loaded.beats[-1].slots_used == 1)
    known = len(loaded.beats)
    eventually(lambda: len(loaded.beats) >= known + 3, 5)
    late = loaded.beats[-3:]
    assert {beat.steps for beat in late} == {late[0].steps}  # no progress is how a stall shows
    assert late[0].resident_bytes > 1_000_000


def test_the_heart_beats_while_a_model_loads(child: Child) -> None:
    child.say(wire.Load(1, "/slow", 256, 1, 256, 1, 60.0))
    known = len(child.beats)
    child.answer(1)
    assert len(child.beats) > known


# ---- the pipe -----------------------------------------------------------------------------------
def test_noise_on_stdout_reaches_stderr_and_not_the_wire(loaded: Child) -> None:
    loaded.say(generate(2, "5 noise"))
    assert loaded.text(2)[0] == "1 2 3 4 5 "
    assert loaded.broken is None
    loaded.say(wire.Shutdown())
    loaded.rest()
    assert loaded.end() == 0
    assert loaded.words().count("noise on stdout") == 3


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", encode(b"no msgpack"), encode(b""), encode(b"\x81\xa4type\xa4Nope")],
    ids=["an endless frame", "no msgpack", "an empty frame", "an unknown command"],
)
def test_garbage_ends_it_at_once_with_a_reason(loaded: Child, garbage: bytes) -> None:
    loaded.say(generate(2, "100000 sleep"))
    loaded.raw(garbage)
    assert left_within(loaded, 2.0) == 70
    loaded.rest()
    loaded.end()
    assert "Error" in loaded.words()


def test_half_a_command_is_waited_for(loaded: Child) -> None:
    frame = encode(wire.encode(generate(2, "2")))
    loaded.raw(frame[: HEADER.size + 3])
    known = len(loaded.beats)
    eventually(lambda: len(loaded.beats) > known)
    loaded.raw(frame[HEADER.size + 3 :])
    assert loaded.text(2)[0] == "1 2 "


# ---- the end ------------------------------------------------------------------------------------
def test_it_leaves_at_once_when_told_so(loaded: Child) -> None:
    loaded.say(generate(2, "100000 sleep"), wire.Shutdown())
    assert left_within(loaded, 1.0) == 0


@pytest.mark.parametrize("work", ["idle", "100000 sleep", "10 stall"])
def test_it_leaves_within_a_second_when_the_gateway_is_gone(loaded: Child, work: str) -> None:
    if work != "idle":
        loaded.say(generate(2, work))
        loaded.next(wire.Pieces)
        if "stall" in work:
            eventually(lambda: loaded.beats and loaded.beats[-1].steps == 3)
    loaded.hang_up()
    assert left_within(loaded, 1.0) == 0


def test_it_leaves_within_a_second_while_it_loads(child: Child) -> None:
    child.say(wire.Load(1, "/slow-slow", 256, 1, 256, 1, 60.0))
    child.next(wire.Progress)
    child.hang_up()
    assert left_within(child, 1.0) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how full the pipe is")
def test_it_leaves_within_a_second_when_nobody_has_read_for_long() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tabagent.worker", "fake", "9"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        commands = [wire.Load(1, "/fake", 256, 4, 1024, 1, 60.0), generate(2, "10000000")]
        worker.stdin.write(b"".join(encode(wire.encode(command)) for command in commands))
        eventually(lambda: unread(worker.stdout) > 60_000, 10)
        worker.stdin.write(encode(wire.encode(wire.Tokenize(3, "x"))))  # a second thread is stuck
        worker.stdin.close()
        assert worker.wait(1.0) == 0


def unread(pipe: Any) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_parent_takes_it_along_even_when_the_pipe_stays_open() -> None:
    read, write = os.pipe()
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-P', '-m', 'tabagent.worker', 'fake', '9'],"
        f" stdin={read}, stdout=subprocess.PIPE)\n"
        "child.stdout.read(4)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[read])
    try:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 1.0)
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("work", "code", "words"),
    [
        ("10 crash", -signal.SIGABRT, "these are my last words"),
        ("10 exit", 3, ""),
        ("10 raise", 70, "RuntimeError: made to fail"),
    ],
)
def test_a_crash_leaves_its_last_words_and_closes_the_pipe(
    loaded: Child, work: str, code: int, words: str
) -> None:
    loaded.say(generate(2, work))
    assert not any(ends(event) for event in loaded.rest())
    assert loaded.end() == code
    assert words in loaded.words()


def test_a_model_that_is_corrupt_is_a_typed_answer_and_no_crash(child: Child) -> None:
    child.say(wire.Load(1, "/corrupt", 256, 1, 256, 1, 60.0))
    failed = child.next(wire.Failed)
    assert failed.slug == "model-corrupt"
    assert failed.members == {"file": "fake", "check": "fake", "expected": "a", "actual": "b"}
    assert child.process.poll() is None


@pytest.mark.parametrize(("path", "code"), [("/crash", -signal.SIGABRT), ("/die", -signal.SIGKILL)])
def test_a_model_that_kills_the_engine_ends_the_process(child: Child, path: str, code: int) -> None:
    child.say(wire.Load(1, path, 256, 1, 256, 1, 60.0))
    assert child.rest() == []
    assert child.end() == code
