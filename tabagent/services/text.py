"""A model's own tokenizer and chat template, without generating anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Self

from pydantic import Field, Strict, model_validator

from tabagent import wire
from tabagent.catalog.models import Model
from tabagent.engine.process import WorkerProcess
from tabagent.operation import Call, Reply, Request
from tabagent.parameters import Flag, ModelName, invalid
from tabagent.parameters.dialogue import DialogueParameters
from tabagent.parameters.messages import ChatMessage, Messages, plain


class TokenizeRequest(Request):
    """A text to cut into tokens."""

    model_config = {"json_schema_extra": {"examples": [{"text": "How do I pull a model?"}]}}

    model: ModelName = None
    text: str
    add_special: Flag = Field(False, description="Add the tokens the model begins and ends with.")
    parse_special: Flag = Field(False, description="Read `<|...|>` as control tokens, not as text.")


class Tokens(Reply):
    """The ids, and the text of each; a token may hold a part of a character, shown as U+FFFD."""

    model: str
    tokens: list[int]
    pieces: list[str]
    count: int


class DetokenizeRequest(Request):
    """Token ids to turn into text."""

    model_config = {"json_schema_extra": {"examples": [{"tokens": [300, 301, 302]}]}}

    model: ModelName = None
    tokens: list[Annotated[int, Strict(), Field(ge=0)]] = Field(max_length=1_000_000)


class Text(Reply):
    """What the tokens say."""

    model: str
    text: str


class Conversation(DialogueParameters):
    """Messages for the chat template, and what goes with them."""

    model_config = {
        "json_schema_extra": {"examples": [{"messages": [{"role": "user", "content": "Hello"}]}]}
    }

    model: ModelName = None
    messages: Messages
    add_generation_prompt: Flag = True


class Prompt(Reply):
    """What the model would read."""

    model: str
    prompt: str
    tokens: list[int]
    count: int


class CountRequest(DialogueParameters):
    """Either a text, or messages and what goes with them."""

    model_config = {"json_schema_extra": {"examples": [{"text": "How do I pull a model?"}]}}

    model: ModelName = None
    text: str | None = None
    messages: Messages | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        given = self.model_fields_set & DialogueParameters.model_fields.keys()
        if self.messages is None and given:
            raise invalid(f"/{min(given)}", "goes with messages")
        return self


class Count(Reply):
    """How many tokens, and how many the model can hold."""

    model: str
    count: int
    context_length: int


class TextTools:
    """`resolve` finds a model by name; `using` gives the process that runs it, for a while."""

    def __init__(
        self,
        resolve: Callable[[str | None], Awaitable[Model]],
        using: Callable[[Model], AbstractAsyncContextManager[WorkerProcess]],
        context_length: Callable[[Model], int],
    ) -> None:
        self._resolve, self._using, self._context = resolve, using, context_length

    async def tokenize(self, request: TokenizeRequest, call: Call) -> Tokens:
        """Cut a text into the model's tokens."""
        model = await self._resolve(request.model)
        answer = await self._ask(
            model,
            lambda id_: wire.Tokenize(
                id_, request.text, request.add_special, request.parse_special
            ),
        )
        return Tokens(model=model.id, count=len(answer["tokens"]), **answer)

    async def detokenize(self, request: DetokenizeRequest, call: Call) -> Text:
        """Turn token ids back into text."""
        model = await self._resolve(request.model)
        answer = await self._ask(model, lambda id_: wire.Detokenize(id_, request.tokens))
        return Text(model=model.id, text=answer["text"])

    async def apply_template(self, request: Conversation, call: Call) -> Prompt:
        """Show what the chat template makes of a conversation, and its tokens."""
        model = await self._resolve(request.model)
        answer = await self._render(
            model, request.messages, request.dialogue(), request.add_generation_prompt
        )
        tokens = answer["tokens"]
        return Prompt(model=model.id, prompt=answer["text"], tokens=tokens, count=len(tokens))

    async def count(self, request: CountRequest, call: Call) -> Count:
        """Count the tokens of a text, or of a conversation through the chat template."""
        model = await self._resolve(request.model)
        if request.messages is not None:
            answer = await self._render(model, request.messages, request.dialogue(), True)
        else:
            text = request.text or ""
            answer = await self._ask(model, lambda id_: wire.Tokenize(id_, text))
        return Count(
            model=model.id, count=len(answer["tokens"]), context_length=self._context(model)
        )

    async def measure(
        self, model: Model, messages: Sequence[dict[str, Any]], dialogue: wire.Dialogue
    ) -> int:
        """How many tokens a conversation has, as `wire.Generate` takes it."""
        answer = await self._ask(model, lambda id_: wire.Render(id_, list(messages), dialogue))
        return len(answer["tokens"])

    async def _render(
        self,
        model: Model,
        messages: list[ChatMessage],
        dialogue: wire.Dialogue,
        add_generation_prompt: bool,
    ) -> dict[str, Any]:
        said = plain(messages)
        return await self._ask(
            model, lambda id_: wire.Render(id_, said, dialogue, add_generation_prompt)
        )

    async def _ask(self, model: Model, build: Callable[[int], wire.Command]) -> dict[str, Any]:
        async with self._using(model) as worker:
            return await worker.ask(build)
