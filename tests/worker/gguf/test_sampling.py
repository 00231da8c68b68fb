"""Sampling parameters: each does what its name says, and the short way draws as the long one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.generation.sampling import DEFAULTS, Sampler, biases, shortlist
from tabagent.worker.gguf.native import Model
from tests.worker.gguf.driver import Engine

SIZE = 50_021  # of a vocabulary, not a multiple of anything


class Vocabulary:
    """What a sampler wants to know of a model."""

    n_vocab, vocab, context_length = SIZE, None, 4096
    end_tokens = [SIZE - 1]


def sampler(bias: dict[int, float] | None = None, **wish: Any) -> Sampler:
    sampling = wire.Sampling(**({"seed": 1} | wish))
    return Sampler(Vocabulary(), sampling, DEFAULTS, bias or {})  # type: ignore[arg-type]  # see above


@pytest.mark.parametrize(
    "wish",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "repeat_penalty": 1.5},
        {},
        {"top_k": 1},
        {"top_k": 200, "top_p": 1.0, "min_p": 0.0, "temperature": 2.0},
        {"repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"presence_penalty": -2.0, "repeat_last_n": 30},
        {"typical_p": 0.5},
        {"xtc_probability": 0.5, "xtc_threshold": 0.05},
        {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
        {"top_k": 3000},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "bias", [{}, {3: 9.0, 4: -100.0, 5: float("-inf"), SIZE - 1: 7.0}], ids=len
)
def test_the_short_list_draws_what_the_whole_vocabulary_would(
    wish: dict[str, Any], bias: dict[int, float]
) -> None:
    short, whole = sampler(bias, **wish), sampler(bias, **wish)
    whole._whole, whole._plain = True, False
    draw = np.random.default_rng(3)
    drawn = []
    for _ in range(80):
        logits = draw.standard_normal(SIZE).astype(np.float32) * 2
        token = short.sample(logits)
        assert token == whole.sample(logits)
        short.accept(token)
        whole.accept(token)
        drawn.append(token)
    assert len(set(drawn)) > 1
    assert 5 not in drawn or 5 not in bias
    short.close()
    whole.close()


def test_what_a_constraint_forbids_is_never_drawn() -> None:
    logits = np.full(SIZE, -np.inf, np.float32)
    logits[[7, 40_000, SIZE - 1]] = [1.0, 2.0, 3.0]
    chain = sampler(temperature=2.0, top_p=1.0, min_p=0.0)
    assert {chain.sample(logits) for _ in range(200)} == {7, 40_000, SIZE - 1}


def test_equal_logits_are_all_candidates() -> None:
    assert len(shortlist(np.zeros(SIZE, np.float32), 40, set())) >= 40


@pytest.mark.parametrize(
    "wish",
    [
        {"temperature": 0.2},
        {"top_k": 2},
        {"top_p": 0.1},
        {"min_p": 0.9},
        {"typical_p": 0.2},
        {"top_n_sigma": 0.5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_sequence_breakers": []},
        {"mirostat": 1, "mirostat_tau": 0.5},
        {"mirostat": 2, "mirostat_tau": 0.5},
        {"dynatemp_range": 0.9},
        {"repeat_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"presence_penalty": 2.0},
        {"logit_bias": [(40, 100.0)]},
        {"logit_bias": [("th", 100.0)]},
    ],
    ids=str,
)
def test_each_parameter_changes_what_is_said_and_the_seed_keeps_it(
    engine: Engine, wish: dict[str, Any]
) -> None:
    usual = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 9}
    plain = engine.say("the hello the hello", max_tokens=60, sampling=usual)
    first, second = (
        engine.say("the hello the hello", max_tokens=60, sampling=usual | wish) for _ in range(2)
    )
    assert first.text == second.text != plain.text


def test_a_bias_bans_a_token_and_wins_over_all_others(engine: Engine) -> None:
    usual = engine.say("hello", max_tokens=10).text
    (first,) = engine.tokens(usual[0])
    banned = engine.say(
        "hello", max_tokens=10, sampling={"logit_bias": [(first, float("-inf"))]}
    ).text
    assert banned[0] != usual[0]
    assert engine.say("hello", max_tokens=5, sampling={"logit_bias": [("z", 1e3)]}).text == "zzzzz"


@pytest.mark.parametrize(
    ("token", "pointer"),
    [(10**6, "/logit_bias/1000000"), (-1, "/logit_bias/-1"), ("z/zz", "/logit_bias/z~1zz")],
)
def test_a_bias_for_what_is_no_token_is_refused_with_its_pointer(
    engine: Engine, token: int | str, pointer: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.submit("hello", sampling={"logit_bias": [(token, 1.0)]})
    assert refused.value.param == "logit_bias"
    assert [e["pointer"] for e in refused.value.members["errors"]] == [pointer]


def test_end_tokens_are_banned_when_they_are_ignored(tiny: Path) -> None:
    model = Model(str(tiny), lambda _: None)
    found = biases(model, wire.Sampling(ignore_eos=True))
    assert found == dict.fromkeys(model.end_tokens, float("-inf"))
    model.close()


def test_penalties_look_back_into_the_prompt(engine: Engine) -> None:
    usual = engine.say("hello", max_tokens=1).text
    penalty = {"repeat_penalty": 2.0, "presence_penalty": 2.0}
    assert (
        engine.say(usual * 8, max_tokens=1, sampling=penalty).text
        != (engine.say(usual * 8, max_tokens=1).text)
        or usual not in engine.say(usual * 8, max_tokens=1, sampling=penalty).text
    )


# ---- logprobs -----------------------------------------------------------------------------------
def test_logprobs_are_those_of_the_models_own_distribution(engine: Engine) -> None:
    plain = engine.say("the hello", max_tokens=8)
    told = engine.say("the hello", max_tokens=8, logprobs=3, sampling={"repeat_penalty": 1.0})
    assert told.text == plain.text
    chances = told.chances[0]
    assert b"".join(c.token for c in chances).decode() == told.text
    for chance in chances:
        assert chance.logprob is not None
        assert len(chance.top) == 3
        assert chance.top == sorted(chance.top, key=lambda pair: -pair[1])
        assert chance.top[0] == (chance.token, chance.logprob)  # greedy
        assert sum(np.exp(p) for _, p in chance.top) < 1 + 1e-6


def test_all_logprobs_of_a_token_sum_to_one(engine: Engine) -> None:
    size = int(engine.facts["vocabulary"])
    (chance,) = engine.say("hello", max_tokens=1, logprobs=size).chances[0]
    assert len(chance.top) == size
    assert sum(np.exp(p) for _, p in chance.top) == pytest.approx(1, abs=1e-5)


def test_sampling_does_not_change_logprobs(engine: Engine) -> None:
    told = engine.say("hello", max_tokens=1, logprobs=5)
    hot = engine.say(
        "hello", max_tokens=1, logprobs=5, sampling={"temperature": 1.9, "seed": 3, "top_k": 2}
    )
    (cold, warm) = (told.chances[0][0].top, hot.chances[0][0].top)
    assert [token for token, _ in cold] == [token for token, _ in warm]
    # The prompt's last token was computed alone the second time: other rounding.
    assert [p for _, p in cold] == pytest.approx([p for _, p in warm], abs=1e-3)


def test_an_end_token_has_no_logprob(engine: Engine) -> None:
    told = engine.say(
        "hello",
        max_tokens=20,
        logprobs=0,
        sampling={"ignore_eos": False, "logit_bias": [("<|im_end|>", 1e3)]},
    )
    assert (told.text, told.cause, told.chances[0]) == ("", "eos", [])


# ---- echo and fill in the middle ----------------------------------------------------------------
def test_echo_says_the_prompt_first(engine: Engine) -> None:
    plain = engine.say("the hello", max_tokens=5)
    assert engine.say("the hello", max_tokens=5, echo=True).text == "the hello" + plain.text


def test_echo_with_logprobs_scores_every_token_of_the_prompt(engine: Engine) -> None:
    prompt = "in on an er the hello " * 5  # more than is scored in one step
    told = engine.say(prompt, max_tokens=4, echo=True, logprobs=1)
    chances = told.chances[0]
    tokens = engine.tokens(prompt)
    assert len(chances) == len(tokens) + 4
    assert chances[0].logprob is None
    assert b"".join(c.token for c in chances).decode() == told.text
    # A prompt that ends sooner asks the same question of its last token.
    for position in (1, 7, len(tokens) - 1):
        (chance,) = engine.say(
            [*tokens[:position]], max_tokens=1, logprobs=engine.facts["vocabulary"]
        ).chances[0]
        piece = chances[position].token
        assert dict(chance.top)[piece] == pytest.approx(chances[position].logprob, abs=2e-3)


def test_echo_scores_beside_others(engine: Engine) -> None:
    other = engine.submit("hello", max_tokens=60)
    alone = engine.say("the hello", max_tokens=30)
    engine.submit("hello", max_tokens=60)
    told = engine.say("the hello", max_tokens=30, echo=True, logprobs=0)
    assert told.text == "the hello" + alone.text
    assert engine.told[other].usage.completion_tokens == 60
