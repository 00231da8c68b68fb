"""What texts are and what they name: models with a head that labels a text, or each of its tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

from msgspec.structs import replace
from pydantic import Discriminator, Field, Tag

from tabagent import wire
from tabagent.catalog.models import Model, Task
from tabagent.engine.pooling import Ask
from tabagent.errors import ModelNotFound, WrongModelTask
from tabagent.operation import Call, Reply, Request
from tabagent.parameters import Whole
from tabagent.parameters.keep_alive import KeepAlive

MOST_INPUTS = 256

Resolve = Callable[[str | None, Task], Awaitable[Model | None]]
"""The model that a request names; one for the task when it names none, or None."""
Text = Annotated[str, Field(min_length=1)]
Input = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "text"),
]


class TextsRequest(Request):
    """Texts that a model reads. All together may have 65,536 tokens."""

    model: str | None = Field(
        None,
        max_length=200,
        description="Model id; left out: the selected model if it does this, else one that does.",
    )
    input: Input = Field(description="A text, or up to 256.")
    keep_alive: KeepAlive = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class ClassifyRequest(TextsRequest):
    """Texts to classify."""

    model_config = {
        "json_schema_extra": {"examples": [{"input": ["I love this.", "Never again."]}]}
    }

    top_n: Whole | None = Field(None, ge=1, description="Only the likeliest so many labels.")
    truncate: wire.Truncate = Field(
        "error",
        description="What becomes of a text that is too long: `end` cuts it, `split` takes the mean of its parts.",
    )


class EntitiesRequest(TextsRequest):
    """Texts in which to find what they name. Long ones are read in windows."""

    model_config = {"json_schema_extra": {"examples": [{"input": "Ada Lovelace lived in London."}]}}


class ReadUsage(Reply):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class LabelScore(Reply):
    """A label and how much speaks for it."""

    label: str
    score: float


class Classification(Reply):
    """What one text is."""

    index: int = Field(description="Of the text in the request.")
    label: str = Field(description="The likeliest.")
    score: float = Field(
        description="A probability; what the head says where the model is made for regression."
    )
    scores: list[LabelScore] = Field(description="All labels, the likeliest first.")


class Classifications(Reply):
    """What each text is."""

    object: Literal["list"] = "list"
    model: str
    data: list[Classification]
    usage: ReadUsage


class Entity(Reply):
    """A stretch of a text that names something."""

    label: str
    text: str
    start: int = Field(description="Its first character (code point) in the text.")
    end: int = Field(description="The one after its last.")
    score: float = Field(description="The mean probability of its words.")


class TextEntities(Reply):
    """What one text names, in its order."""

    index: int
    entities: list[Entity]


class EntityList(Reply):
    """What each text names."""

    object: Literal["list"] = "list"
    model: str
    data: list[TextEntities]
    usage: ReadUsage


class Labels:
    """`resolve` finds a model, `ask` asks its worker."""

    def __init__(self, resolve: Resolve, ask: Ask) -> None:
        self._resolve, self._ask = resolve, ask

    async def classify(self, request: ClassifyRequest, call: Call) -> Classifications:
        """Say what texts are, with a model that was trained to tell.

        Needs a model whose `task` is `classification`.
        """
        model = await self._model(request.model, "classification")
        command = wire.Label(0, request.texts, request.truncate)
        answer = await self._ask(model, lambda id_: replace(command, id=id_), request.keep_alive)
        names = model.reading.labels if model.reading else []
        data = []
        for index, row in enumerate(answer["scores"]):
            order = sorted(range(len(row)), key=lambda n: -row[n])[: request.top_n]
            found = [LabelScore(label=_name(names, n), score=row[n]) for n in order]
            data.append(
                Classification(
                    index=index, label=found[0].label, score=found[0].score, scores=found
                )
            )
        return Classifications(model=model.id, data=data, usage=_usage(answer["tokens"]))

    async def entities(self, request: EntitiesRequest, call: Call) -> EntityList:
        """Find the names in texts: people, places and whatever else a model was trained to find.

        Needs a model whose `task` is `entities`.
        """
        model = await self._model(request.model, "entities")
        texts = request.texts
        answer = await self._ask(model, lambda id_: wire.Mark(id_, texts), request.keep_alive)
        data = [
            TextEntities(
                index=index,
                entities=[
                    Entity(label=label, text=texts[index][start:end], start=start, end=end, score=s)
                    for label, s, start, end in spans
                ],
            )
            for index, spans in enumerate(answer["spans"])
        ]
        return EntityList(model=model.id, data=data, usage=_usage(answer["tokens"]))

    async def mark(self, texts: Sequence[str]) -> list[list[tuple[str, str]]] | None:
        """(label, text) of what each text names; None where there is no model for it."""
        model = await self._resolve(None, "entities")
        if model is None or model.problem is not None or model.task != "entities":
            return None
        answer = await self._ask(model, lambda id_: wire.Mark(id_, list(texts)), None)
        return [
            [(label, text[start:end]) for label, _, start, end in spans]
            for text, spans in zip(texts, answer["spans"], strict=True)
        ]

    async def _model(self, name: str | None, task: Task) -> Model:
        model = await self._resolve(name, task)
        if model is None:
            raise ModelNotFound(
                f"there is no model for {task} here",
                param="model",
                model=name or "",
                pull_hint="put the folder of one, with its ONNX file, into the models directory",
            )
        if model.problem is None and model.task != task:
            raise WrongModelTask(
                f"{model.id} is for {model.task}: use a model whose task is {task}", param="model"
            )
        return model


def _name(names: list[str], number: int) -> str:
    return names[number] if number < len(names) else f"LABEL_{number}"


def _usage(tokens: list[int]) -> ReadUsage:
    return ReadUsage(prompt_tokens=sum(tokens), total_tokens=sum(tokens))
