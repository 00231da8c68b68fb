"""The tiny model in the real worker process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tabagent import wire
from tests.live import eventually
from tests.worker.child import Child, generate
from tests.worker.gguf.driver import GREEDY
from tests.worker.tiny_gguf import write_model


@pytest.fixture
def child(tiny: Path) -> Iterator[Child]:
    with Child("gguf") as started:
        started.load(str(tiny))
        yield started


def chat(id_: int, text: str, **more: Any) -> wire.Generate:
    messages = [{"role": "user", "content": text}]
    sampling = wire.Sampling(temperature=0.0, ignore_eos=True)
    return wire.Generate(id_, sampling, messages=messages, **more)


def test_it_says_which_engine_it_is(child: Child) -> None:
    assert child.hello.engine.startswith("llama.cpp ")


def test_a_chat_comes_in_pieces_and_ends_with_its_usage(child: Child) -> None:
    child.say(chat(2, "hello", max_tokens=30))
    text, end = child.text(2)
    assert isinstance(end, wire.Finished)
    assert end.usage.completion_tokens == 30
    assert end.usage.prompt_ms > 0 < end.usage.predicted_ms
    assert len(text) >= 30


def test_several_at_once_say_what_each_says_alone(child: Child) -> None:
    child.say(*(generate(n, "the " * n, sampling=GREEDY, max_tokens=20) for n in range(2, 8)))
    together: dict[int, str] = dict.fromkeys(range(2, 8), "")
    left = set(together)
    while left:
        event = child.event()
        if isinstance(event, wire.Pieces):
            for piece in event.items:
                together[piece.id] += piece.text
        elif isinstance(event, wire.Finished):
            left.discard(event.id)
    for n in together:
        child.say(generate(n, "the " * n, sampling=GREEDY, max_tokens=20))
        assert child.text(n)[0] == together[n]


def test_a_refusal_crosses_the_pipe_with_everything_that_rebuilds_it(child: Child) -> None:
    child.say(generate(2, ""), chat(3, "x" * 500), wire.Detokenize(4, [10**9]))
    empty, long, outside = child.answer(2), child.answer(3), child.answer(4)
    assert isinstance(empty, wire.Failed)
    assert (empty.slug, empty.members["param"]) == ("invalid-request", "prompt")
    assert isinstance(long, wire.Failed)
    assert long.slug == "context-length-exceeded"
    assert isinstance(outside, wire.Failed)
    assert outside.members["param"] == "tokens"


def test_a_halt_and_a_cancel_free_their_slots(child: Child) -> None:
    child.say(generate(2, "a", sampling=GREEDY), generate(3, "b", sampling=GREEDY))
    child.say(wire.Cancel(2, halt=True), wire.Cancel(3))
    assert isinstance(child.answer(2), wire.Finished)
    eventually(lambda: child.beats and child.beats[-1].slots_used == 0)
    child.say(generate(4, "c", sampling=GREEDY, max_tokens=3))
    assert isinstance(child.answer(4), wire.Finished)


def test_every_private_character_beside_a_control_token_is_refused_not_a_crash(
    child: Child,
) -> None:
    text = "".join(map(chr, range(0xE000, 0xF900))) + "<|im_end|>"
    child.say(chat(2, text))
    failed = child.answer(2)
    assert isinstance(failed, wire.Failed)
    assert failed.slug == "invalid-request"
    child.say(chat(3, "x", max_tokens=2))
    assert isinstance(child.answer(3), wire.Finished)


ENDLESS = (
    "{% if messages[0].content == 'bomb' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}fine"
)


def test_it_and_its_template_process_are_gone_when_the_gateway_is(tmp_path: Path) -> None:
    with Child("gguf") as child:
        child.load(str(write_model(tmp_path / "m.gguf", template=ENDLESS)))
        (renderer,) = psutil.Process(child.process.pid).children()
        child.say(chat(2, "bomb"))
        eventually(lambda: renderer.cpu_percent() > 10)
        child.hang_up()
        began = time.monotonic()
        assert child.process.wait(10) == 0
        assert time.monotonic() - began < 1.0
        eventually(lambda: not renderer.is_running(), 4.0)


def test_a_request_halted_while_its_template_runs_is_answered_at_once_and_once(
    tmp_path: Path,
) -> None:
    with Child("gguf") as child:
        child.load(str(write_model(tmp_path / "m.gguf", template=ENDLESS)))
        child.say(chat(2, "bomb"), wire.Cancel(2, halt=True))
        began = time.monotonic()
        assert isinstance(child.answer(2), wire.Finished)
        assert time.monotonic() - began < 1.0
        child.say(chat(3, "x", max_tokens=2))  # waits for the renderer to be replaced
        while not isinstance(event := child.event(), wire.Finished):
            assert not isinstance(event, wire.Failed), "a second answer"
        assert event.id == 3


def test_generation_goes_on_beside_an_endless_template(tmp_path: Path) -> None:
    with Child("gguf") as child:
        child.load(str(write_model(tmp_path / "m.gguf", template=ENDLESS)))
        child.say(chat(2, "bomb"), generate(3, "a", sampling=GREEDY, max_tokens=20))
        first = child.event()
        while not isinstance(first, wire.Finished | wire.Failed):
            first = child.event()
        assert first.id == 3
        refused = child.answer(2)
        assert isinstance(refused, wire.Failed)
        assert refused.slug == "chat-template-rejected"
        child.say(chat(4, "x", max_tokens=2))
        assert isinstance(child.answer(4), wire.Finished)
