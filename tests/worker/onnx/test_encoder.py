"""Pooling, prompts, windows and faults of small encoders, against sentence-transformers' numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tabagent import wire
from tabagent.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    UnsupportedModel,
    WrongModelTask,
)
from tests.worker.gguf.pooling_driver import cosines
from tests.worker.onnx.conftest import Open
from tests.worker.onnx.driver import rows
from tests.worker.torch_peer import WIDTH, TorchPeer

Tiny = Callable[..., Path]
TEXTS = ["the cat sat on the mat", "dog", "a green river, a tree? yes!", "x", "house " * 30]
PROMPTS = {"query": "the question: ", "document": "on the mat: "}


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_every_pooling_makes_the_vectors_of_sentence_transformers(
    tiny: Tiny, open_: Open, torch_peer: TorchPeer, pooling: str, kind: str
) -> None:
    folder = tiny(pooling=pooling, kind=kind)
    found = open_(folder).vectors(TEXTS)
    assert cosines(found, torch_peer.vectors(folder, TEXTS)).min() > 0.99999


@pytest.mark.parametrize("counts", [True, False])
def test_prompts_stand_before_the_text_by_name(
    tiny: Tiny, open_: Open, torch_peer: TorchPeer, counts: bool
) -> None:
    folder = tiny(prompts=PROMPTS, default_prompt="query", include_prompt=counts)
    reader = open_(folder)
    for name in ("query", "document"):
        expected = torch_peer.vectors(folder, TEXTS, prompt_name=name)
        assert cosines(reader.vectors(TEXTS, prompt=name), expected).min() > 0.99999
    unasked = reader.vectors(TEXTS)
    np.testing.assert_allclose(unasked, reader.vectors(TEXTS, prompt="query"), atol=1e-6)
    passage = reader.vectors(TEXTS, prompt="passage")  # what others call a document
    np.testing.assert_allclose(passage, reader.vectors(TEXTS, prompt="document"), atol=1e-6)
    assert cosines(unasked, passage).max() < 0.9999


def test_an_unknown_prompt_is_refused_with_those_there_are(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny(prompts=PROMPTS, default_prompt="query"))
    with pytest.raises(InvalidRequest, match="document, passage, query") as refused:
        reader.vectors(["a"], prompt="title")
    assert refused.value.members["errors"][0]["pointer"] == "/prompt_name"
    lenient = reader.vectors(["a"], prompt="title", lenient=True)
    np.testing.assert_allclose(lenient, reader.vectors(["a"]), atol=1e-6)


def test_fewer_dimensions_are_the_first_ones(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny())
    whole, short = reader.vectors(TEXTS), reader.vectors(TEXTS, dimensions=8)
    assert whole.shape == (5, WIDTH)
    assert cosines(whole[:, :8], short).min() > 0.999999
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    with pytest.raises(InvalidRequest, match=f"{WIDTH} numbers"):
        reader.vectors(["a"], dimensions=WIDTH + 1)


def test_nothing_is_cut_unless_the_request_says_so(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny())
    long = "cat " * 300
    with pytest.raises(ContextLengthExceeded, match="302 tokens") as refused:
        reader.vectors(["a", long])
    assert refused.value.members["errors"][0]["pointer"] == "/input/1"
    (cut,) = reader.vectors([long], truncate="end")
    (same,) = reader.vectors(["cat " * 126])
    np.testing.assert_allclose(cut, same, atol=1e-6)


def test_a_split_text_is_the_mean_of_its_parts(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny())
    long = "cat " * 126 + "dog " * 126
    found = reader.ask(lambda id_: wire.Embed(id_, ["x", long], "split"))
    assert len(found["vectors"]) == 2
    assert found["tokens"][0] == 3
    assert found["tokens"][1] > 254  # windows overlap
    (alone,) = reader.vectors(["x"])
    np.testing.assert_allclose(rows(found)[0], alone, atol=1e-6)
    begin, end = reader.vectors(["cat " * 126, "dog " * 126])
    (cut,) = reader.vectors([long], truncate="end")
    assert cosines(rows(found)[1], begin + end) > 0.95  # the middle window has both
    assert cosines(rows(found)[1], cut) < cosines(rows(found)[1], begin + end)


def test_a_prompt_stands_before_every_part_of_a_split_text(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny(prompts=PROMPTS))
    long = "cat " * 126 + "dog " * 126
    tokens = reader.backend._model.windows(long, PROMPTS["query"])
    before = reader.backend._model.sequences([""], PROMPTS["query"])[0]["id"][:-1]
    assert len(tokens) > 2
    for window in tokens:
        assert len(window) == 128
        assert window["id"][: len(before)].tolist() == before.tolist()


def test_a_graph_that_cannot_be_kept_is_opened_all_the_same(
    tiny: Tiny, open_: Open, tmp_path: Path
) -> None:
    (tmp_path / "graphs").write_text("no folder")
    reader = open_(tiny(), graph_path=str(tmp_path / "graphs"), graph_bytes=2**24)
    assert reader.vectors(["the cat"]).shape == (1, WIDTH)


def test_control_tokens_in_a_text_are_text(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny())
    asked = reader.backend.ask(wire.Tokenize(1, "[SEP]", add_special=True))
    assert asked["pieces"][0] == "[CLS]"
    assert asked["pieces"][-1] == "[SEP]"
    assert asked["pieces"][1:-1] == ["[", "s", "##e", "##p", "]"]
    back = reader.backend.ask(wire.Detokenize(2, [5, 6]))
    assert back["text"] == "the cat"
    with pytest.raises(InvalidRequest, match="99999"):
        reader.backend.ask(wire.Detokenize(3, [99999]))


def test_late_interaction_is_the_likest_token_for_each_of_the_query(
    tiny: Tiny, open_: Open
) -> None:
    reader = open_(tiny())
    found = reader.ask(
        lambda id_: wire.Rank(id_, "cat", ["cat", "a dog", "cat " * 200], method="late-interaction")
    )
    assert found["method"] == "late-interaction"
    assert found["scores"][0] == pytest.approx(1)
    assert all(-1 <= score < 0.999 for score in found["scores"][1:])
    plain = reader.ask(lambda id_: wire.Rank(id_, "cat", ["cat", "a dog"]))
    assert plain["method"] == "similarity"
    assert plain["scores"][0] == pytest.approx(1)
    (query,), documents = reader.vectors(["cat"]), reader.vectors(["cat", "a dog"])
    np.testing.assert_allclose(plain["scores"], documents @ query, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda id_: wire.Rank(id_, "a", ["b"], method="cross-encoder"), WrongModelTask),
        (lambda id_: wire.Label(id_, ["a"]), WrongModelTask),
        (lambda id_: wire.Mark(id_, ["a"]), WrongModelTask),
        (lambda id_: wire.Generate(id_, wire.Sampling(), text="a"), WrongModelTask),
        (lambda id_: wire.Embed(id_, []), InvalidRequest),
        (lambda id_: wire.Rank(id_, "cat " * 300, ["b"]), ContextLengthExceeded),
    ],
)
def test_what_a_model_is_not_for_is_refused(
    tiny: Tiny, open_: Open, build: Any, error: type[Exception]
) -> None:
    reader = open_(tiny())
    with pytest.raises(error):
        reader.submit(build)


def changed(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A model whose graph is another."""
    shutil.copytree(source, target)
    file = target / "onnx" / "model.onnx"
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    return target


def weights(model: onnx.ModelProto, end: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name.endswith(end))


def test_nan_fails_its_own_request_and_no_other(tiny: Tiny, open_: Open, tmp_path: Path) -> None:
    def sick(model: onnx.ModelProto) -> None:
        table = weights(model, "word_embeddings.weight")
        values = numpy_helper.to_array(table).copy()
        values[9] = np.nan  # "mat"
        table.CopyFrom(numpy_helper.from_array(values, table.name))

    reader = open_(changed(tiny(), tmp_path / "sick", sick))
    good = reader.submit(lambda id_: wire.Embed(id_, ["the cat", "a dog"]))
    bad = reader.submit(lambda id_: wire.Embed(id_, ["the cat", "mat"]))
    other = reader.submit(lambda id_: wire.Embed(id_, ["the cat"]))
    reader.run()
    assert isinstance(reader.ended[good], wire.Done)
    assert isinstance(reader.ended[other], wire.Done)
    failed = reader.ended[bad]
    assert isinstance(failed, wire.Failed)
    assert failed.slug == "model-corrupt"
    assert failed.members["errors"][0]["pointer"] == "/input/1"


def test_what_the_engine_cannot_compute_fails_its_own_request(
    tiny: Tiny, open_: Open, tmp_path: Path
) -> None:
    def shorter(model: onnx.ModelProto) -> None:
        table = weights(model, "word_embeddings.weight")
        values = numpy_helper.to_array(table)[:60]
        table.CopyFrom(numpy_helper.from_array(values, table.name))

    reader = open_(changed(tiny(), tmp_path / "short", shorter))
    bad = reader.submit(lambda id_: wire.Embed(id_, ["xyz"]))  # pieces beyond the table
    good = reader.submit(lambda id_: wire.Embed(id_, ["the cat"]))
    reader.run()
    assert isinstance(reader.ended[good], wire.Done)
    failed = reader.ended[bad]
    assert isinstance(failed, wire.Failed)
    assert failed.slug == "model-corrupt"
    assert "out of data bound" in failed.detail


def test_a_layer_behind_the_pooling_is_not_left_out_silently(
    tiny: Tiny, open_: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "dense"
    shutil.copytree(tiny(), folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModel, match="Dense"):
        open_(folder)


def test_an_output_that_is_a_vector_already_is_taken(
    tiny: Tiny, open_: Open, tmp_path: Path
) -> None:
    def pooled(model: onnx.ModelProto) -> None:
        mean = onnx.helper.make_node(
            "ReduceMax", ["last_hidden_state"], ["sentence_embedding"], axes=[1], keepdims=0
        )
        model.graph.node.append(mean)
        model.graph.output.append(
            onnx.helper.make_tensor_value_info("sentence_embedding", 1, ["batch", WIDTH])
        )

    folder = changed(tiny(), tmp_path / "pooled", pooled)
    found = open_(folder).vectors(["the cat"])
    assert cosines(found, open_(tiny(pooling="max")).vectors(["the cat"])).min() > 0.99999


def test_inputs_of_unknown_use_are_refused_by_name(tiny: Tiny, open_: Open, tmp_path: Path) -> None:
    def pixels(model: onnx.ModelProto) -> None:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info("pixel_values", 1, ["batch", 3, 224, 224])
        )

    with pytest.raises(UnsupportedModel, match="pixel_values"):
        open_(changed(tiny(), tmp_path / "pixels", pixels))


def test_a_missing_provider_is_told(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny(), providers=["CUDAExecutionProvider"])
    assert reader.facts["execution_provider"] == "CPUExecutionProvider"
    assert reader.facts["notes"] == [
        "it runs on the CPU: the installed ONNX Runtime has no CUDA provider"
    ]
    assert reader.vectors(["a"]).shape == (1, WIDTH)


def test_an_optimised_graph_is_kept_and_a_damaged_one_made_anew(
    tiny: Tiny, open_: Open, tmp_path: Path
) -> None:
    kept = {"graph_path": str(tmp_path / "graphs"), "graph_bytes": 2**24}
    first = open_(tiny(), **kept).vectors(TEXTS)
    (graph,) = (tmp_path / "graphs").iterdir()
    np.testing.assert_allclose(open_(tiny(), **kept).vectors(TEXTS), first, atol=1e-6)
    graph.write_bytes(b"not a graph")
    np.testing.assert_allclose(open_(tiny(), **kept).vectors(TEXTS), first, atol=1e-6)
    (graph,) = (tmp_path / "graphs").iterdir()
    assert graph.stat().st_size > 1000
    open_(tiny(pooling="cls"), **(kept | {"graph_bytes": int(graph.stat().st_size * 2.5)}))
    assert len(list((tmp_path / "graphs").iterdir())) == 2
    open_(tiny(pooling="max"), **(kept | {"graph_bytes": int(graph.stat().st_size * 2.5)}))
    assert len(list((tmp_path / "graphs").iterdir())) == 2  # the oldest has gone


def test_a_long_text_runs_beside_short_ones(tiny: Tiny, open_: Open) -> None:
    reader = open_(tiny(positions=3000))
    long = "cat " * 2000
    together = reader.vectors([long, "dog", long + "tree"])
    (alone,) = reader.vectors(["dog"])
    np.testing.assert_allclose(together[1], alone, atol=1e-5)
