"""Texts as vectors, as services ask for them: a model is found, texts go in, an array comes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.engine.pooling import Ask
from tabagent.errors import (
    EmbeddingModelNotAvailable,
    ModelNotFound,
    TabAgentError,
    WrongModelTask,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

TOGETHER: Final = 256  # texts that a worker is asked for at once: others come between
TOKENS: Final = 65_536  # of all these texts; no token has less than a byte
FRAME: Final = 8  # tokens around a text, at most

Resolve = Callable[[str | None, Task], Awaitable[Model | None]]
"""The model that a request names; one for the task when it names none, or None."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """What a model made of texts: a row of length 1 for each, and how many tokens were read."""

    model: str
    rows: list[bytes]  # little-endian 32-bit floats
    tokens: int

    def matrix(self) -> Matrix:
        """[texts, dimensions]."""
        import numpy as np  # 0.1 s that a start need not wait

        return np.frombuffer(b"".join(self.rows), np.dtype("<f4")).reshape(len(self.rows), -1)


class Embedder:
    """`resolve` finds a model, `ask` asks its worker."""

    def __init__(self, resolve: Resolve, ask: Ask) -> None:
        self._resolve, self._ask = resolve, ask

    async def vectors(
        self,
        name: str | None,
        texts: Sequence[str],
        *,
        pointers: Sequence[str],
        at_once: bool = False,
        truncate: wire.Truncate = "error",
        dimensions: int | None = None,
        prompt: str | None = None,
        roles: Sequence[str | None] = (),
        keep_alive_s: float | None = None,
    ) -> Vectors:
        """The vectors of `texts`, each of which stands at its pointer in the request.

        They are computed in parts that a worker surely takes, or all `at_once`, which it may refuse.
        `prompt` names what the model wants before each; `roles`, one for each text, name what some
        models want there, and others do not know.
        Raises EmbeddingModelNotAvailable, WrongModelTask, or what the worker raises, with the
        pointers of the texts that it is about.
        """
        model = await self.model(name)
        rows: list[bytes] = []
        tokens = 0
        for part in [list(texts)] if at_once else _parts(texts, roles):
            command = wire.Embed(
                0,
                part,
                truncate,
                dimensions=dimensions,
                prompt=roles[len(rows)] if roles else prompt,
                lenient=bool(roles),
            )
            try:
                answer = await self._ask(model, partial(_numbered, command), keep_alive_s)
            except TabAgentError as error:
                _point(error, part, pointers[len(rows) :])
                raise
            rows += answer["vectors"]
            tokens += sum(answer["tokens"])
        return Vectors(model.id, rows, tokens)

    async def model(self, name: str | None) -> Model:
        """The embedding model with this name; the chosen one when none is named.

        Raises EmbeddingModelNotAvailable, ModelNotFound or WrongModelTask.
        """
        try:
            model = await self._resolve(name, "embedding")
        except ModelNotFound as error:
            if name:
                raise
            raise EmbeddingModelNotAvailable(
                f"the settings name an embedding model that is not here: {error.detail}",
                param="model",
            ) from error
        if model is None:
            raise EmbeddingModelNotAvailable("there is no embedding model here", param="model")
        if model.problem is None and model.task != "embedding":
            raise WrongModelTask(
                f"{model.id} makes no embeddings: GET /v1/embedding-models lists those that do",
                param="model",
            )
        return model


def _parts(texts: Sequence[str], roles: Sequence[str | None]) -> Iterator[list[str]]:
    """What is asked for together: texts in their order, of one role."""
    part: list[str] = []
    room = TOKENS
    for index, text in enumerate(texts):
        size = len(text.encode(errors="replace")) + FRAME
        other = bool(roles) and index > 0 and roles[index] != roles[index - 1]
        if part and (size > room or len(part) == TOGETHER or other):
            yield part
            part, room = [], TOKENS
        part.append(text)
        room -= size
    yield part


def _numbered(command: wire.Embed, id_: int) -> wire.Embed:
    return replace(command, id=id_)


def _point(error: TabAgentError, part: Sequence[str], pointers: Sequence[str]) -> None:
    """A worker knows its texts as `/input/0` and so on, or `/input` alone: say where they stand."""
    if error.param != "input":
        return
    whole = pointers[0].rpartition("/")[0] or pointers[0]
    names = {"/input": whole if len(part) > 1 else pointers[0]}
    names |= {f"/input/{n}": pointer for n, pointer in enumerate(pointers)}
    for fault in error.members.get("errors", ()):
        fault["pointer"] = names.get(fault["pointer"], fault["pointer"])
    first, _, rest = error.detail.partition(" ")
    colon = ":" if first.endswith(":") else ""
    if (found := first.rstrip(":")) in names:
        error.detail = f"{names[found]}{colon} {rest}"
        error.param = names[found].split("/")[1]
