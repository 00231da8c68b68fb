"""OpenAI embeddings: texts as vectors, and the models that make them."""

from __future__ import annotations

from array import array
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Discriminator, Field, Tag

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.operation import Call, NoParameters, Reply, Request
from tabagent.parameters import Meaningless, Whole
from tabagent.parameters.keep_alive import KeepAlive
from tabagent.replies.vectors import Embedder

MOST_INPUTS = 256


def _texts(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise ValueError("must be a text or a list of texts")
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, int | list):
        raise ValueError(
            "token ids belong to another model's vocabulary: send text "
            "(in langchain: check_embedding_ctx_length=False)"
        )
    return value


Text = Annotated[str, Field(min_length=1)]
Input = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "text"),
    BeforeValidator(_texts),
]


class EmbeddingRequest(Request):
    """Texts to turn into vectors. All inputs together may have 65,536 tokens."""

    model_config = {
        "json_schema_extra": {"examples": [{"input": ["How do I pull a model?", "Hello"]}]}
    }

    model: str | None = Field(
        None,
        max_length=200,
        description="Model id; left out: the selected model if it makes embeddings, else one that does.",
    )
    input: Input = Field(description="A text, or up to 256. Special tokens in it are text.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`float` when left out; `base64` is that of little-endian 32-bit floats."
    )
    dimensions: Whole | None = Field(
        None,
        ge=1,
        description="Keep the first so many numbers and normalise again; for models trained so (Matryoshka).",
    )
    truncate: Literal["error", "end", "split"] = Field(
        "error",
        description="What becomes of a text that the model cannot read at once: `end` cuts it, `split` reads it in overlapping parts and sends the mean of their vectors, by their tokens.",
    )
    prompt_name: str | None = Field(
        None,
        max_length=64,
        description="Which of the model's prompts stands before each text, such as `query` or `passage`; left out: its default, if it has one.",
    )
    keep_alive: KeepAlive = None
    user: Meaningless = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class Embedding(Reply):
    """One vector, of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Reply):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Reply):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage

    def encode(self) -> bytes:
        return msgspec.json.encode(self.__dict__, enc_hook=vars)


class EmbeddingModel(Reply):
    """A model that makes vectors."""

    id: str
    object: Literal["model"] = "model"
    dimensions: int = Field(description="Numbers in a vector.")
    context_length: int = Field(description="Tokens of the longest text.")
    pooling: wire.Pooling | None = Field(
        description="How the tokens of a text become one vector; `mean` where the file says nothing."
    )
    size_bytes: int
    quantization: str
    prompts: list[str] = Field(description="Names of what can stand before a text.")
    loaded: bool


class EmbeddingModelList(Reply):
    """All models that make vectors."""

    object: Literal["list"] = "list"
    data: list[EmbeddingModel]


class Embeddings:
    """`listed` has all models and which are loaded."""

    def __init__(
        self,
        embedder: Embedder,
        listed: Callable[[], Awaitable[list[tuple[Model, bool]]]],
    ) -> None:
        self._embedder, self._listed = embedder, listed

    async def create(self, request: EmbeddingRequest, call: Call) -> EmbeddingList:
        """Turn texts into vectors, as OpenAI's embeddings.

        Vectors have length 1. A text that is longer than the model reads at once is refused, cut or
        split as `truncate` says. Texts that wait together are computed together, whoever sent them.
        """
        one = isinstance(request.input, str)
        found = await self._embedder.vectors(
            request.model,
            request.texts,
            pointers=["/input" if one else f"/input/{n}" for n in range(len(request.texts))],
            at_once=True,
            truncate=request.truncate,
            prompt=request.prompt_name,
            dimensions=request.dimensions,
            keep_alive_s=request.keep_alive,
        )
        form = _base64 if request.encoding_format == "base64" else _floats
        return EmbeddingList.model_construct(
            data=[
                Embedding.model_construct(index=index, embedding=form(vector))
                for index, vector in enumerate(found.rows)
            ],
            model=found.model,
            usage=EmbeddingUsage.model_construct(
                prompt_tokens=found.tokens, total_tokens=found.tokens
            ),
        )

    async def models(self, request: NoParameters, call: Call) -> EmbeddingModelList:
        """List the models that make vectors."""
        return EmbeddingModelList(
            data=[
                EmbeddingModel(
                    id=model.id,
                    dimensions=model.embedding_length,
                    context_length=model.context_length,
                    pooling=model.pooling,
                    size_bytes=model.size_bytes,
                    quantization=model.quantisation,
                    prompts=sorted(model.reading.prompts) if model.reading else [],
                    loaded=loaded,
                )
                for model, loaded in await self._listed()
                if model.task == "embedding" and model.problem is None
            ]
        )


def _floats(vector: bytes) -> list[float]:
    return array("f", vector).tolist()


def _base64(vector: bytes) -> str:
    return b64encode(vector).decode()
