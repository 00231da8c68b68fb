"""What one sequence computed serves others: less work, and never another word."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from tabagent.worker.generation.sampling import SEED_STRIDE
from tabagent.worker.gguf.cells import SharedCells
from tests.worker.gguf.conftest import Start
from tests.worker.gguf.driver import Engine
from tests.worker.tiny_mamba import write_mamba

EXACT = {"flash_attention": "off", "cache_type_k": "f32", "cache_type_v": "f32"}
SYSTEM = "in on an er the " * 8
QUESTIONS = ["hello", "what is the time", "0123456", "z z z", "one", "two", "three", "Größe"]


@pytest.fixture(params=["shared", "auto"])
def start(start: Start, request: pytest.FixtureRequest) -> Start:
    """In one cache for all, and in parts of it where each has room."""
    return partial(start, kv_layout=request.param, **EXACT)


@pytest.fixture
def alone(start: Start) -> Engine:
    return start(slots=1)


def computed(engine: Engine) -> list[int]:
    """A list that gets the number of tokens of every stretch that is computed from now on."""
    context, stretches = engine.backend._context, list[int]()
    add = context.add

    def counted(sequence: int, at: int, tokens: Sequence[int], logits: int) -> int:
        stretches.append(len(tokens))
        return add(sequence, at, tokens, logits)

    context.add = counted  # type: ignore[method-assign,assignment]  # to count
    return stretches


def said_alone(alone: Engine, prompt: str, tokens: int = 30) -> str:
    """Without anything of an earlier prompt in its memory."""
    for holder in alone.backend._cells.kept:
        alone.backend._cells.drop(holder)
    told = alone.say(prompt, max_tokens=tokens)
    assert told.usage.cached_tokens == 0
    return told.text


def test_a_beginning_that_all_share_is_computed_once_even_when_all_come_together(
    start: Start, alone: Engine
) -> None:
    engine = start(slots=8)
    stretches = computed(engine)
    ids = [engine.submit(SYSTEM + question, max_tokens=30) for question in QUESTIONS]
    engine.run()
    shared = len(engine.tokens(SYSTEM))
    own = sum(engine.told[id_].usage.prompt_tokens - shared for id_ in ids) + 30 * len(ids)
    assert sum(stretches) < shared + own + 8 * 2
    for question, id_ in zip(QUESTIONS, ids, strict=True):
        assert engine.told[id_].text == said_alone(alone, SYSTEM + question)
    cached = [engine.told[id_].usage.cached_tokens for id_ in ids]
    assert cached[0] == 0
    assert all(count >= shared - 2 for count in cached[1:])


def test_a_beginning_whose_author_leaves_halfway_is_computed_by_another(
    start: Start, alone: Engine
) -> None:
    engine = start(slots=3)
    engine.backend._turns._speed = 1.0  # type: ignore[union-attr]  # the smallest chunks
    first, *others = [engine.submit(SYSTEM + question, max_tokens=20) for question in QUESTIONS[:3]]
    engine.step()
    engine.backend.cancel(first, halt=False)
    engine.run()
    for question, id_ in zip(QUESTIONS[1:], others, strict=False):
        assert engine.told[id_].text == said_alone(alone, SYSTEM + question, 20)


def test_followers_go_on_when_their_leader_loses_its_place(start: Start, alone: Engine) -> None:
    engine = start(slots=4, kv_tokens=256)
    ids = [engine.submit(SYSTEM + question, max_tokens=40) for question in QUESTIONS[:4]]
    ids += [engine.submit("!" * 90 + question, max_tokens=40) for question in QUESTIONS[:4]]
    engine.run()
    prompts = [SYSTEM + q for q in QUESTIONS[:4]] + ["!" * 90 + q for q in QUESTIONS[:4]]
    for prompt, id_ in zip(prompts, ids, strict=True):
        assert engine.told[id_].text == said_alone(alone, prompt, 40)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(start: Start) -> None:
    engine = start(slots=2, kv_layout="shared")
    for number in range(80):
        engine.say(f"{number} {SYSTEM}", max_tokens=2)
    assert len(engine.backend._cells.kept) <= 33
    assert engine.say(f"79 {SYSTEM}", max_tokens=2).usage.cached_tokens > 20
    assert engine.say(f"0 {SYSTEM}", max_tokens=2).usage.cached_tokens < 5


def test_no_more_tokens_are_kept_than_pay_and_the_last_conversation_always(start: Start) -> None:
    engine = start(slots=2, kv_layout="shared")
    cells = engine.backend._cells
    assert isinstance(cells, SharedCells)
    cells._budget = 256
    for number in range(20):
        engine.say(f"{number} {SYSTEM}", max_tokens=2)
        kept = cells.kept
        assert sum(holder.done for holder in kept[1:]) <= 256
        assert kept[-1].tokens[:5] == engine.tokens(f"{number} {SYSTEM}")[:5]


def test_a_turn_that_another_goes_beyond_is_not_kept_twice(start: Start) -> None:
    engine = start(slots=2)
    prompt = SYSTEM
    for _ in range(4):
        prompt += engine.say(prompt, max_tokens=5).text
    assert len(engine.backend._cells.kept) == 1


def test_choices_share_their_prompt_and_each_has_its_own_seed(start: Start) -> None:
    engine = start(slots=4)
    stretches = computed(engine)
    sampling = {"temperature": 1.0, "seed": 5}
    told = engine.say(SYSTEM, max_tokens=12, n=3, sampling=sampling)
    assert len(set(told.texts.values())) == 3
    assert told.usage.completion_tokens == 36
    assert sum(stretches) <= told.usage.prompt_tokens + 36 + 3
    for index in range(3):
        own = {"temperature": 1.0, "seed": (5 + index * SEED_STRIDE) & 0xFFFFFFFF}
        assert engine.say(SYSTEM, max_tokens=12, sampling=own).text == told.texts[index]


def test_more_choices_than_slots_take_turns(start: Start) -> None:
    told = start(slots=2).say("hello", max_tokens=5, n=4)
    assert len(told.endings) == 4
    assert len(set(told.texts.values())) == 1  # greedy


def test_a_choice_that_is_halted_ends_with_all_the_others(start: Start) -> None:
    engine = start(slots=2)
    id_ = engine.submit("hello", n=3)
    for _ in range(4):
        engine.step()
    told = engine.halt(id_)
    assert {ending.cause for ending in told.endings.values()} == {"halted"}
    assert len(told.endings) == 3
    assert not engine.backend.busy


# ---- a memory that cannot be cut ----------------------------------------------------------------
@pytest.fixture(scope="session")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")


def test_a_recurrent_model_says_the_same_in_a_batch(start: Start, mamba: Path) -> None:
    together, alone = start(mamba, slots=8), start(mamba, slots=1)
    ids = [together.submit(question * 3, max_tokens=30) for question in QUESTIONS]
    together.run()
    for question, id_ in zip(QUESTIONS, ids, strict=True):
        assert together.told[id_].text == said_alone(alone, question * 3)


def test_a_recurrent_model_goes_on_from_copies_it_kept(start: Start, mamba: Path) -> None:
    engine, alone = start(mamba, slots=2), start(mamba, slots=1)
    first = engine.say(SYSTEM, max_tokens=20)
    again = engine.say(SYSTEM, max_tokens=20)
    assert again.usage.cached_tokens == first.usage.prompt_tokens - 16
    assert again.text == first.text
    longest = max(engine.backend._cells.kept, key=lambda holder: holder.done).tokens
    told = engine.say([*longest, *engine.tokens(" and then?")], max_tokens=20)
    assert told.usage.cached_tokens == len(longest) > first.usage.prompt_tokens
    for prompt in (SYSTEM + "one", SYSTEM[:40] + "other", SYSTEM + first.text):
        assert engine.say(prompt, max_tokens=30).text == said_alone(alone, prompt)


def test_a_recurrent_model_shares_a_prompt_between_choices(start: Start, mamba: Path) -> None:
    engine = start(mamba, slots=4)
    stretches = computed(engine)
    told = engine.say(SYSTEM, max_tokens=10, n=4)
    assert len(set(told.texts.values())) == 1
    assert sum(stretches) <= told.usage.prompt_tokens + 4 * 10 + 4 * 17


def test_copies_of_a_recurrent_state_never_crowd_out_who_runs(start: Start, mamba: Path) -> None:
    engine, alone = start(mamba, slots=2), start(mamba, slots=1)
    for number in range(12):
        ids = [engine.submit(f"{number}{n} {SYSTEM}", max_tokens=6) for n in range(3)]
        engine.run()
        assert all(engine.told[id_].usage.completion_tokens == 6 for id_ in ids)
    last = f"11 2 {SYSTEM}"
    assert engine.say(last, max_tokens=20).text == said_alone(alone, last, 20)
