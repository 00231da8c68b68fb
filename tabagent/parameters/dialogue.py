"""What a conversation asks of the model beside its messages: tools, and how much to think."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self, get_args

from msgspec.structs import replace
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tabagent import wire
from tabagent.operation import Request
from tabagent.parameters import Flag, Number, Whole, invalid, unsupported

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
TEMPLATE_VARIABLE: Final = re.compile("[a-z_]*(think|reason)[a-z_]*")


class FunctionDefinition(Request):
    """A function that the model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of its arguments; without one it takes none."
    )
    strict: Flag | None = Field(None, description="Hold the arguments to the schema.")

    def tool(self, pointer: str) -> wire.Tool:
        return wire.Tool(
            self.name, self.description or "", self.parameters, bool(self.strict), pointer
        )


def functions_only(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else "function"
    if isinstance(kind, str) and kind != "function":
        raise unsupported(f"a tool of type {kind} does not run here, functions do")
    return tool


class FunctionTool(Request):
    """OpenAI's wrapping of a function."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Request):
    """A function by its name."""

    name: ToolName


class NamedTool(Request):
    """This tool must be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Request):
    """The tools of which one may, or must, be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=64)


class AllowedToolsChoice(Request):
    """OpenAI's wrapping of a choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Mode = Literal["none", "auto", "required"]
ToolChoice = Mode | Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")]


def tool_dialogue(
    tools: list[wire.Tool],
    mode: Mode,
    *,
    named: str | None = None,
    allowed: list[str] | None = None,
    parallel: bool,
) -> wire.Dialogue:
    """The tools' part of a dialogue. Raises InvalidRequest where names do not fit together.

    Of tools that are not among the `allowed` the model is not told.
    """
    names = [tool.name for tool in tools]
    if twice := {name for name in names if names.count(name) > 1}:
        raise invalid("/tools", f"{min(twice)} is there twice")
    if unknown := {name for name in (named, *(allowed or ())) if name} - set(names):
        raise invalid("/tool_choice", f"there is no tool named {min(unknown)}")
    if mode == "required" and not tools:
        raise invalid("/tool_choice", "there are no tools to choose from")
    return wire.Dialogue(
        tools=[tool for tool in tools if allowed is None or tool.name in allowed],
        tool_choice=mode,
        tool_name=named,
        parallel_tool_calls=parallel,
    )


def _about_thinking(variables: dict[str, Any]) -> dict[str, Any]:
    for name in variables:
        if not TEMPLATE_VARIABLE.fullmatch(name):
            raise unsupported(f"{name} is not a template variable about thinking")
    return variables


PlainValue = Flag | Whole | Number | Annotated[str, Field(max_length=256)] | None


class DialogueParameters(Request):
    """Tools and thinking, as every operation on messages has them."""

    tools: (
        Annotated[
            list[Annotated[FunctionTool, BeforeValidator(functions_only)]], Field(max_length=64)
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Flag | None = Field(None, description="More than one call at once.")
    reasoning_effort: Effort | None = Field(
        None, description="For models that think; `none` is without thinking."
    )
    enable_thinking: Flag | None = Field(
        None, description="Whether to think, where both are known."
    )
    chat_template_kwargs: (
        Annotated[dict[str, PlainValue], Field(max_length=16), AfterValidator(_about_thinking)]
        | None
    ) = Field(
        None,
        description="`enable_thinking`, `reasoning_effort` and other template variables about "
        "thinking.",
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> Self:
        self.dialogue()  # raises what does not fit
        return self

    def dialogue(self) -> wire.Dialogue:
        mode, named, allowed = _choice(self.tool_choice)
        tools = [
            tool.function.tool(f"/tools/{number}/function/parameters")
            for number, tool in enumerate(self.tools or ())
        ]
        chosen = tool_dialogue(
            tools,
            mode,
            named=named,
            allowed=allowed,
            parallel=self.parallel_tool_calls is not False,
        )
        thinking, effort, others = _variables(self.chat_template_kwargs or {})
        for name, one, other in (
            ("enable_thinking", self.enable_thinking, thinking),
            ("reasoning_effort", self.reasoning_effort, effort),
        ):
            if None not in (one, other) and one != other:
                raise invalid(f"/chat_template_kwargs/{name}", f"says otherwise than {name}")
        return with_thinking(
            chosen,
            thinking if self.enable_thinking is None else self.enable_thinking,
            self.reasoning_effort or effort,
            others,
        )


def with_thinking(
    dialogue: wire.Dialogue,
    thinking: bool | None,
    effort: Effort | None,
    variables: dict[str, Any],
) -> wire.Dialogue:
    """`dialogue` with what it says of thinking: the effort `none` is without, any other with it."""
    by_effort = None if effort is None else effort != "none"
    if thinking is None:
        thinking = by_effort
    elif by_effort not in (None, thinking):
        raise invalid("/enable_thinking", f"says otherwise than the effort {effort}")
    return replace(dialogue, thinking=thinking, effort=effort, variables=variables)


def _choice(choice: ToolChoice | None) -> tuple[Mode, str | None, list[str] | None]:
    """(mode, the function that must be called, the functions that may be called)."""
    match choice:
        case NamedTool(function=function):
            return "required", function.name, None
        case AllowedToolsChoice(allowed_tools=some):
            return some.mode, None, [tool.function.name for tool in some.tools]
        case None:
            return "auto", None, None
        case _:
            return choice, None, None


def _variables(given: dict[str, Any]) -> tuple[bool | None, Effort | None, dict[str, Any]]:
    """What template variables say of thinking and effort, and the others."""
    rest = dict(given)
    thinking, effort = rest.pop("enable_thinking", None), rest.pop("reasoning_effort", None)
    if not isinstance(thinking, bool | None):
        raise invalid("/chat_template_kwargs/enable_thinking", "must be true or false")
    if effort not in (None, *get_args(Effort)):
        known = ", ".join(get_args(Effort))
        raise invalid("/chat_template_kwargs/reasoning_effort", f"must be one of {known}")
    return thinking, effort, rest
