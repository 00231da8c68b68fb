"""What a repository offers, and what is chosen of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tabagent.catalog.variant import variant_of
from tabagent.errors import (
    AccessDenied,
    InvalidRequest,
    ModelNotFound,
    TabAgentError,
    UnsupportedModel,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from tabagent.hub.repository import Repository, check_name, choose, repository
from tests.hub.fake_hub import COMMIT, FakeHub, Reply

FILES = {
    "model-Q8_0.gguf": bytes(800),
    "model-Q4_K_M.gguf": bytes(400),
    "model-Q4_K_S.gguf": bytes(380),
    "model-IQ2_XXS.gguf": bytes(200),
    "F16/model-F16-00001-of-00002.gguf": bytes(900),
    "F16/model-F16-00002-of-00002.gguf": bytes(700),
    "mmproj-model-F16.gguf": bytes(50),
    "README.md": b"hello",
    "pytorch_model.bin": bytes(10),
}


def found(hub: FakeHub, token: str | None = None) -> Repository:
    return asyncio.run(repository(hub.repo, hub.url, token))


@pytest.mark.parametrize(
    ("path", "variant"),
    [
        ("Qwen3-0.6B-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-3-4b-it-qat-q4_0.gguf", "Q4_0"),
        ("model.i1-IQ3_XXS.gguf", "IQ3_XXS"),
        ("UD-Q2_K_XL/model-UD-Q2_K_XL-00001-of-00003.gguf", "UD-Q2_K_XL"),
        ("BF16/model-00001-of-00002.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("stories15M.gguf", "stories15M"),
        ("llama-2-7b-chat.Q5_K_S.gguf", "Q5_K_S"),
    ],
)
def test_names_say_which_variant_it_is(path: str, variant: str) -> None:
    assert variant_of(path) == variant


def test_files_become_variants_with_sizes_the_largest_first() -> None:
    with FakeHub(FILES) as hub:
        repo = found(hub)
    assert repo.commit == COMMIT
    sizes = {variant.name: variant.size for variant in repo.variants}
    assert sizes == {"F16": 1600, "Q8_0": 800, "Q4_K_M": 400, "Q4_K_S": 380, "IQ2_XXS": 200}
    assert list(sizes) == ["F16", "Q8_0", "Q4_K_M", "Q4_K_S", "IQ2_XXS"]


@pytest.mark.parametrize(
    ("wish", "room", "name"),
    [
        (None, 10_000, "Q4_K_M"),
        (None, 390, "Q4_K_S"),
        (None, 10, "IQ2_XXS"),
        ("q4", 10, "Q4_K_M"),
        ("q4_k_s", 10, "Q4_K_S"),
        ("model-Q8_0.gguf", 10, "Q8_0"),
        ("best", 10_000, "F16"),
        ("best", 1000, "Q8_0"),
        ("BEST", 10, "IQ2_XXS"),
    ],
)
def test_a_variant_is_chosen_by_name_beginning_file_or_room(
    wish: str | None, room: int, name: str
) -> None:
    with FakeHub(FILES) as hub:
        assert choose(found(hub), wish, lambda size: size <= room).name == name


def test_a_variant_that_is_not_there_is_answered_with_those_that_are() -> None:
    with FakeHub(FILES) as hub, pytest.raises(ModelNotFound, match="Q8_0, Q4_K_M"):
        choose(found(hub), "Q9", lambda size: True)


@pytest.mark.parametrize(
    "name",
    ["../model-Q8_0.gguf", "/etc/model-Q8_0.gguf", "C:\\model-Q8_0.gguf", "a\0b-Q8_0.gguf",
     "a/../../b-Q8_0.gguf", "x" * 300 + ".gguf", ".hidden/model-Q8_0.gguf", "a//b-Q8_0.gguf",
     "-Q8_0.gguf", "con\n-Q8_0.gguf", "модель-Q8_0.gguf", "a/b/c/d/e/f/g-Q8_0.gguf"],
)  # fmt: skip
def test_a_hostile_name_is_no_file(name: str) -> None:
    with FakeHub({name: bytes(10), "good-Q4_0.gguf": bytes(10)}) as hub:
        assert [variant.name for variant in found(hub).variants] == ["Q4_0"]


def test_a_set_with_a_part_missing_is_no_variant() -> None:
    files = {f"m-Q8_0-0000{n}-of-00003.gguf": bytes(10) for n in (1, 3)}
    with FakeHub(files) as hub, pytest.raises(UnsupportedModel):
        found(hub)


def changed(**more: Any) -> Callable[[dict[str, Any]], Reply]:
    return lambda document: Reply(body=json.dumps(document | more).encode())


@pytest.mark.parametrize(
    ("listing", "error"),
    [
        (lambda _: Reply(401, {"X-Error-Code": "GatedRepo"}), AccessDenied),
        (lambda _: Reply(403), AccessDenied),
        (lambda _: Reply(404, {"X-Error-Code": "RepoNotFound"}), ModelNotFound),
        (lambda _: Reply(500), UpstreamUnreachable),
        (lambda _: Reply(body=b"<html>"), UpstreamUnreachable),
        (changed(sha="no commit"), UpstreamInvalid),
        (changed(siblings=[]), UnsupportedModel),
    ],
)
def test_a_listing_that_makes_no_sense_is_a_typed_error(
    listing: Callable[[dict[str, Any]], Reply], error: type[TabAgentError]
) -> None:
    with FakeHub(FILES) as hub:
        hub.listing = listing
        with pytest.raises(error):
            found(hub)


def test_a_digest_that_is_none_is_not_believed() -> None:
    def lie(document: dict[str, Any]) -> Reply:
        document["siblings"][0]["lfs"]["sha256"] = "../../x"
        return Reply(body=json.dumps(document).encode())

    with FakeHub(FILES) as hub:
        hub.listing = lie
        with pytest.raises(UpstreamInvalid, match="digest"):
            found(hub)


@pytest.mark.parametrize(
    "name", ["", "model", "a/b/c", "../x", "a/..", "a b/c", "https://x/y", "a/b.git", ":q4", "/b"]
)
def test_what_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name)


def test_a_name_has_two_halves() -> None:
    assert check_name("a-1/b.c_d:Q4_K_M") == ("a-1/b.c_d", "Q4_K_M")
    assert check_name("a/b") == ("a/b", None)
