"""What a response is asked with."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from tabagent import wire
from tabagent.operation import Request
from tabagent.parameters import (
    REFUSED,
    Flag,
    Meaningless,
    ModelName,
    NotYet,
    Verbosity,
    Whole,
    invalid,
    only,
    unsupported,
)
from tabagent.parameters.dialogue import (
    Effort,
    FunctionDefinition,
    Mode,
    ToolName,
    functions_only,
    tool_dialogue,
    with_thinking,
)
from tabagent.parameters.formats import JsonObjectFormat, NamedSchema, TextFormat
from tabagent.parameters.keep_alive import KeepAlive
from tabagent.parameters.lasting import LastingParameters
from tabagent.parameters.sampling import SamplingParameters
from tabagent.parameters.session import SessionParameters
from tabagent.services.responses.items import Input
from tabagent.services.responses.transcript import Message, Transcript

MOST_MESSAGES: Final = 512
LOGPROBS: Final = "message.output_text.logprobs"
Includable = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]


class Function(FunctionDefinition):
    """A function that the model may call."""

    type: Literal["function"]
    allowed_callers: NotYet = None
    defer_loading: NotYet = None
    output_schema: NotYet = None


class ChosenFunction(Request):
    """This function must be called."""

    type: Literal["function"]
    name: ToolName


class AllowedFunctions(Request):
    """The functions of which one may, or must, be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ChosenFunction] = Field(min_length=1, max_length=64)


Choice = Mode | Annotated[ChosenFunction | AllowedFunctions, Field(discriminator="type")]


class SchemaFormat(NamedSchema):
    """JSON that fits a schema. The schema is enforced, whatever `strict` says."""

    type: Literal["json_schema"]


Format = Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")]


class TextOptions(Request):
    """What the answer's text must look like."""

    format: Format | None = None
    verbosity: Verbosity = None


Summary = Annotated[
    Any,
    only("reasoning is given whole, no model here sums it up", None, "auto"),
    Field(description="`auto` and nothing else: reasoning is given whole, in its item."),
]


class Reasoning(Request):
    """How much to think."""

    effort: Effort | None = None
    summary: Summary = None
    generate_summary: Summary = None
    context: NotYet = None
    mode: Annotated[Any, only("there is one mode", None, "standard"), REFUSED] = None


class ResponseStreamOptions(Request):
    """OpenAI's `stream_options`."""

    include_obfuscation: Meaningless = None


def _includable(name: Any) -> Any:
    if isinstance(name, str) and name not in get_args(Includable):
        raise unsupported(f"there is no {name} to include")
    return name


class ResponseRequest(SamplingParameters, SessionParameters, LastingParameters):
    """A conversation to go on with."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"input": "How do I pull a model?", "max_output_tokens": 128}]
        }
    }

    model: ModelName = None
    input: Input = Field(description="A text from the user, or messages and other items.")
    instructions: str | None = Field(
        None, description="A system message for this response; later ones do not inherit it."
    )
    previous_response_id: str | None = Field(
        None, max_length=128, description="Go on from this response, as long as it is kept."
    )
    store: Flag | None = Field(
        True, description="Keep the conversation, for `previous_response_id`."
    )
    stream: Flag | None = Field(False, description="Send the answer as server-sent events.")
    stream_options: ResponseStreamOptions | None = None
    keep_alive: KeepAlive = None
    max_output_tokens: Whole | None = Field(None, ge=1, description="Reasoning counts too.")
    tools: (
        Annotated[list[Annotated[Function, BeforeValidator(functions_only)]], Field(max_length=64)]
        | None
    ) = None
    tool_choice: Choice | None = None
    parallel_tool_calls: Flag | None = Field(None, description="More than one call at once.")
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: (
        Annotated[
            list[Annotated[Includable, BeforeValidator(_includable)]],
            Field(max_length=16),
        ]
        | None
    ) = Field(
        None,
        description=f"`{LOGPROBS}` tells the probability of every token. Reasoning is given as "
        "text, which may be sent back, and never encrypted.",
    )
    top_logprobs: Whole | None = Field(
        None, ge=0, le=20, description="Likeliest tokens to tell at each position."
    )
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = Field(None, description="Comes back with the response.")
    truncation: Annotated[
        Any, only("nothing is cut silently: send less", None, "disabled"), REFUSED
    ] = None
    background: NotYet = None
    conversation: NotYet = None
    context_management: NotYet = None
    image: NotYet = None
    max_tool_calls: NotYet = None
    moderation: NotYet = None
    prompt: NotYet = None
    user: Meaningless = None
    service_tier: Meaningless = None
    safety_identifier: Meaningless = None
    prompt_cache_key: Meaningless = None
    prompt_cache_retention: Meaningless = None
    prompt_cache_options: Meaningless = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.wants_logprobs:
            raise invalid("/top_logprobs", f"goes with {LOGPROBS} in include")
        if self.session_id is not None and self.previous_response_id is not None:
            raise invalid("/previous_response_id", "belongs to a session: leave one of them out")
        if self.session_id is not None and self.store is False:
            raise invalid("/store", "a session keeps what is said in it")
        self.dialogue()  # raises what does not fit
        return self

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def dialogue(self) -> wire.Dialogue:
        mode: Mode = "auto"
        named: str | None = None
        allowed: list[str] | None = None
        match self.tool_choice:
            case ChosenFunction(name=named):
                mode = "required"
            case AllowedFunctions() as some:
                mode, allowed = some.mode, [tool.name for tool in some.tools]
            case None:
                pass
            case chosen:
                mode = chosen
        tools = [
            tool.tool(f"/tools/{number}/parameters") for number, tool in enumerate(self.tools or ())
        ]
        chosen_dialogue = tool_dialogue(
            tools,
            mode,
            named=named,
            allowed=allowed,
            parallel=self.parallel_tool_calls is not False,
        )
        effort = self.reasoning.effort if self.reasoning else None
        return with_thinking(chosen_dialogue, None, effort, {})

    def format(self) -> wire.Format | None:
        match self.text.format if self.text else None:
            case JsonObjectFormat():
                return wire.Format("json_object", "/text/format")
            case SchemaFormat(schema_=schema):
                return wire.Format("json_schema", "/text/format/schema", schema=schema)
            case _:
                return None

    def transcript(self, history: list[Message]) -> Transcript:
        """The conversation that came before and what is new. Raises InvalidRequest when too long."""
        transcript = Transcript(history)
        if isinstance(self.input, str):
            transcript.message("user", self.input)
        else:
            for item in self.input:
                transcript.add(item)
        if len(transcript.messages) > MOST_MESSAGES:
            count = len(transcript.messages)
            raise invalid(
                "/input", f"the conversation has {count} messages, {MOST_MESSAGES} may be"
            )
        return transcript

    def command(self, messages: list[Message]) -> wire.Generate:
        return wire.Generate(
            0,
            sampling=self.sampling(),
            messages=self._instructed(messages),
            dialogue=self.dialogue(),
            max_tokens=self.max_output_tokens,
            format=self.format(),
            logprobs=self.top_logprobs or 0 if self.wants_logprobs else None,
        )

    def _instructed(self, messages: list[Message]) -> list[Message]:
        """With the instructions first; many templates know one system message only."""
        if not self.instructions:
            return messages
        opening, rest = self.instructions, messages
        if messages[0]["role"] == "system":
            opening, rest = f"{opening}\n\n{messages[0]['content']}", messages[1:]
        return [{"role": "system", "content": opening}, *rest]
