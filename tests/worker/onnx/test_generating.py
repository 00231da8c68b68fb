"""ONNX decoders do what GGUF models do: the same tests, on the guide's ONNX form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tabagent import wire
from tabagent.app import GUIDE
from tabagent.catalog.layouts import read_layout
from tabagent.errors import InvalidRequest, UnsupportedParameter
from tabagent.worker.onnx.engine import OnnxBackend
from tests.worker.child import Child
from tests.worker.gguf.conftest import Start
from tests.worker.gguf.driver import Engine
from tests.worker.gguf.test_generation import (  # noqa: F401  # collected here too
    test_a_prompt_that_leaves_none_is_refused_with_the_numbers,
    test_a_prompt_that_leaves_one_token_gets_one,
    test_a_seed_makes_sampling_reproducible_and_another_seed_changes_it,
    test_a_smaller_context_than_the_models_is_kept,
    test_a_stop_string_ends_it_and_is_not_sent,
    test_a_stop_string_that_only_begins_is_sent_in_the_end,
    test_an_empty_prompt_is_refused,
    test_control_tokens_typed_by_a_person_are_tokenised_as_text,
    test_greedy_says_the_same_each_time,
    test_ignoring_the_end_token_goes_on_to_the_limit,
    test_max_tokens_is_kept_and_reported,
    test_messages_are_generated_from_their_rendered_tokens,
    test_penalties_change_what_is_said_and_make_it_repeat_less,
    test_text_survives_tokens_in_any_script,
    test_the_context_ends_a_generation_that_has_no_other_end,
    test_the_last_token_that_fits_is_the_callers_limit_not_the_contexts,
    test_tokenising_gives_a_piece_for_each_token,
    test_top_k_of_one_is_greedy,
)
from tests.worker.gguf.test_sampling import (  # noqa: F401  # collected here too
    test_all_logprobs_of_a_token_sum_to_one,
    test_echo_says_the_prompt_first,
    test_echo_scores_beside_others,
    test_echo_with_logprobs_scores_every_token_of_the_prompt,
    test_sampling_does_not_change_logprobs,
)
from tests.worker.gguf.test_scheduling import (  # noqa: F401  # collected here too
    test_a_batch_says_what_each_would_say_alone,
    test_a_conversation_goes_on_where_it_was,
    test_a_free_slot_is_given_even_when_nobody_may_wait,
    test_a_halted_request_tells_how_far_it_came,
    test_a_prompt_said_again_is_mostly_remembered_and_says_the_same,
    test_cancelling_frees_the_slot_at_once,
    test_cancelling_what_is_not_there_is_nothing,
    test_full_contexts_one_after_another_fit_into_room_for_one,
    test_more_requests_than_slots_wait_in_order,
    test_no_slot_is_lost_in_a_storm_of_requests_and_cancels,
    test_only_the_common_beginning_is_used,
    test_who_joins_later_says_the_same_and_disturbs_nobody,
    test_who_waits_can_be_cancelled,
    test_who_waits_too_long_is_turned_away_and_nobody_else,
)
from tests.worker.gguf.test_sharing import (  # noqa: F401  # collected here too
    test_a_choice_that_is_halted_ends_with_all_the_others,
    test_more_choices_than_slots_take_turns,
)
from tests.worker.gguf.test_worker import (  # noqa: F401  # collected here too
    test_a_chat_comes_in_pieces_and_ends_with_its_usage,
    test_a_halt_and_a_cancel_free_their_slots,
    test_a_refusal_crosses_the_pipe_with_everything_that_rebuilds_it,
    test_several_at_once_say_what_each_says_alone,
)

FOLDER = Path(__file__).parents[2] / "models" / "guide-onnx"
FILE = FOLDER / "onnx" / "model_quantized.onnx"


def speaking() -> wire.Speaking:
    layout = read_layout(FILE)
    assert layout is not None
    assert layout.speaking is not None
    return layout.speaking


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Engine] = []

    def make(path: Path = FILE, **settings: Any) -> Engine:
        started.append(Engine(path, make=OnnxBackend, speaking=speaking(), **settings))
        return started[-1]

    yield make
    for engine in started:
        engine.close()


@pytest.fixture
def engine(start: Start) -> Engine:
    return start()


@pytest.fixture
def alone(start: Start) -> Engine:
    return start(slots=1)


@pytest.fixture
def child() -> Iterator[Child]:
    with Child("onnx") as started:
        started.load(str(FILE), speaking=speaking())
        yield started


def test_what_the_folder_recommends_is_used(start: Start) -> None:
    """The guide's generation_config.json wants no sampling."""
    engine = start()
    said = {engine.say("hello", sampling={"temperature": None, "seed": n}, max_tokens=20).text
            for n in range(4)}  # fmt: skip
    assert len(said) == 1


def test_what_an_onnx_model_cannot_do_is_refused_by_name(engine: Engine, start: Start) -> None:
    with pytest.raises(UnsupportedParameter) as lora:
        engine.submit("a", loras=[("x", 1.0)])
    assert lora.value.param == "lora"
    with pytest.raises(UnsupportedParameter) as dry:
        engine.submit("a", sampling={"dry_multiplier": 0.5})
    assert dry.value.param == "dry_multiplier"
    with pytest.raises(UnsupportedParameter) as fill:
        engine.submit("a", suffix="b")
    assert fill.value.param == "suffix"
    with pytest.raises(InvalidRequest) as guess:
        start(speculation="ngram")
    assert guess.value.param == "speculation"


def test_both_forms_of_the_guide_cut_texts_alike(engine: Engine) -> None:
    gguf = Engine(GUIDE)
    try:
        for text in ("What is TabAgent?", "  two\t\ttabs \n\n", "<|im_end|> 漢字 🦙", "a"):
            for special in (False, True):
                assert engine.tokens(text, special=special) == gguf.tokens(text, special=special)
    finally:
        gguf.close()


def test_choices_share_what_the_first_has_read(engine: Engine) -> None:
    told = engine.say("the " * 100, n=3, sampling={"temperature": 1.0, "seed": 5}, max_tokens=12)
    assert len(set(told.texts.values())) > 1
    scheduler = engine.backend._turns
    assert scheduler is not None
    assert scheduler.steps < 3 * 2 + 14  # the prompt was read once, in two pieces


def test_what_is_kept_is_bounded_and_the_longest_unused_goes_first(start: Start) -> None:
    prompts = [f"{word} " * 40 for word in ("one", "two", "three")]
    row = 2 * 6 * 8 * 32 * 4  # bytes of a token's keys and values in the guide
    longest = max(len(start().tokens(prompt)) for prompt in prompts) + 5
    engine = start(kept_bytes=2 * row * longest + row)
    for prompt in (prompts[0], prompts[1], prompts[0], prompts[2]):
        engine.say(prompt, max_tokens=5)
    assert engine.say(prompts[0], max_tokens=5).usage.cached_tokens > 30
    assert engine.say(prompts[1], max_tokens=5).usage.cached_tokens == 0


def test_a_turn_that_goes_beyond_another_is_kept_once(engine: Engine) -> None:
    engine.say("one " * 40, max_tokens=5)
    engine.say("one " * 60, max_tokens=5)
    turns: Any = engine.backend._turns
    assert len(turns._kept) <= 2


def test_room_for_few_makes_others_wait_and_changes_nothing(start: Start, alone: Engine) -> None:
    tight = start(slots=4, kv_tokens=300)
    ids = [tight.submit(f"number {n}", max_tokens=30) for n in range(5)]
    tight.run()
    for n, id_ in enumerate(ids):
        assert tight.told[id_].text == alone.say(f"number {n}", max_tokens=30).text


def test_a_grammar_holds_beside_others(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    held = wire.Format("json_schema", "/response_format", schema=schema)
    other = engine.submit("hello there", max_tokens=40)
    chosen = engine.submit([{"role": "user", "content": "a number"}], format=held,
                           sampling={"ignore_eos": False, "seed": 3}, max_tokens=60)  # fmt: skip
    engine.run()
    assert engine.told[chosen].text.strip().startswith("{")
    assert '"n"' in engine.told[chosen].text
    assert engine.told[other].usage.completion_tokens == 40
