"""What families really write, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tabagent import wire

TOOLS: Final = [
    wire.Tool(
        "get_weather",
        "What the weather will be.",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where"},
                "days": {"type": "integer"},
                "unit": {"enum": ["c", "f"]},
            },
            "required": ["city"],
        },
    ),
    wire.Tool(
        "note",
        "Keep a note.",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "urgent": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "due": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "extra": {},
            },
            "required": ["text"],
            "additionalProperties": False,
        },
    ),
    wire.Tool("now", "The time."),
]
OFFERED: Final = wire.Dialogue(tools=TOOLS)
Call = tuple[str, dict[str, Any] | str]
"""A name, and arguments: as the text itself where they are no JSON."""


@dataclass(frozen=True)
class Answer:
    """`text` follows the prompt of `template`; the rest is what a client should get."""

    name: str
    template: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    dialogue: wire.Dialogue = OFFERED


def _json(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def _tag(name: str, arguments: str) -> str:
    return f"<tool_call>\n{_json(name, arguments)}\n</tool_call>"


BERLIN: Final[Call] = ("get_weather", {"city": "Berlin"})
TRICKY: Final[dict[str, Any]] = {
    "text": '</tool_call> "}]} \\ {"name": <tool_call> </think> 🦙é\n',
    "tags": ["[TOOL_CALLS]", "{", "\u2028"],
}
TRICKY_JSON: Final = (
    '{"text": "</tool_call> \\"}]} \\\\ {\\"name\\": <tool_call> </think> 🦙é\\n",'
    ' "tags": ["[TOOL_CALLS]", "{", "\u2028"]}'
)
CITY: Final = '{"city": "Berlin"}'

HERMES: Final = [
    Answer("plain text", "qwen2.5", "Hello, world.\n", "Hello, world.\n"),
    Answer("a call", "qwen2.5", _tag("get_weather", CITY), calls=[BERLIN]),
    Answer(
        "text, then calls",
        "qwen2.5",
        f"Let me look.\n\n{_tag('get_weather', CITY)}\n{_tag('now', '{}')}",
        "Let me look.",
        calls=[BERLIN, ("now", {})],
    ),
    Answer(
        "text behind a call",
        "qwen2.5",
        f"{_tag('now', '{}')}\nThat is it. ",
        "That is it. ",
        calls=[("now", {})],
    ),
    Answer(
        "text, a call, text, a call",
        "qwen2.5",
        f"One. {_tag('now', '{}')} Two. {_tag('now', '{}')}",
        "One.Two.",
        calls=[("now", {}), ("now", {})],
    ),
    Answer(
        "markers, braces and quotes in arguments",
        "qwen2.5",
        _tag("note", TRICKY_JSON),
        calls=[("note", TRICKY)],
    ),
    Answer(
        "escapes in arguments",
        "qwen2.5",
        _tag("note", '{"text": "\\ud83e\\udd99\\u00e9\\""}'),
        calls=[("note", {"text": '🦙é"'})],
    ),
    Answer(
        "no spaces at all",
        "qwen2.5",
        f'<tool_call>{{"name":"get_weather","arguments":{CITY}}}</tool_call>',
        calls=[BERLIN],
    ),
    Answer(
        "arguments before the name",
        "qwen2.5",
        f'<tool_call>\n{{"arguments": {CITY}, "name": "get_weather"}}\n</tool_call>',
        calls=[BERLIN],
    ),
    Answer(
        "a name alone",
        "qwen2.5",
        '<tool_call>\n{"name": "now"}\n</tool_call>',
        calls=[("now", {})],
    ),
    Answer(
        "arguments as null",
        "qwen2.5",
        '<tool_call>\n{"name": "now", "arguments": null}\n</tool_call>',
        calls=[("now", {})],
    ),
    Answer(
        "arguments written into a string",
        "qwen2.5",
        '<tool_call>\n{"name": "get_weather", "arguments": "{\\"city\\": \\"Berlin\\"}"}\n</tool_call>',
        calls=[BERLIN],
    ),
    Answer(
        "an id in the call",
        "qwen2.5",
        f'<tool_call>{{"id": {{"a": "}}"}}, "name": "get_weather", "arguments": {CITY}}}</tool_call>',
        calls=[BERLIN],
    ),
    Answer(
        "a second member behind the arguments",
        "qwen2.5",
        f'<tool_call>{{"name": "get_weather", "arguments": {CITY}, "x": [1]}}</tool_call>',
        calls=[BERLIN],
    ),
    Answer(
        "a function that is not there",
        "qwen2.5",
        _tag("delete_all", "{}"),
        _tag("delete_all", "{}"),
    ),
    Answer(
        "a tag that begins no call",
        "qwen2.5",
        " Write <tool_call> and then <tool_call",
        " Write <tool_call> and then <tool_call",
    ),
    Answer(
        "a call in a tag that begins none",
        "qwen2.5",
        f"<tool_call> <tool_call>{_tag('now', '{}')}",
        "<tool_call> <tool_call>",
        calls=[("now", {})],
    ),
    Answer(
        "JSON that is no call in the tag",
        "qwen2.5",
        '<tool_call>{"name": "now", "why": 1}</tool_call>',
        '<tool_call>{"name": "now", "why": 1}</tool_call>',
    ),
    Answer(
        "a call cut off in its arguments",
        "qwen2.5",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ber',
        calls=[("get_weather", '{"city": "Ber')],
    ),
    Answer(
        "a call cut off before its arguments",
        "qwen2.5",
        'Look: <tool_call>\n{"name": "get_weath',
        'Look: <tool_call>\n{"name": "get_weath',
    ),
    Answer(
        "a call without its end",
        "qwen2.5",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Berlin"}',
        calls=[BERLIN],
    ),
    Answer(
        "arguments that are no JSON",
        "qwen2.5",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": Berlin’s}}\n</tool_call>',
        "’s}}\n</tool_call>",
        calls=[("get_weather", '{"city": Berlin')],
    ),
    Answer(
        "think tags of a model that does not reason",
        "qwen2.5",
        "<think>\nx\n</think>\n\ny",
        "<think>\nx\n</think>\n\ny",
    ),
    Answer(
        "calls where no tools are offered",
        "qwen2.5",
        _tag("now", "{}"),
        _tag("now", "{}"),
        dialogue=wire.Dialogue(),
    ),
    Answer(
        "calls where no call is allowed",
        "qwen2.5",
        _tag("now", "{}"),
        _tag("now", "{}"),
        dialogue=wire.Dialogue(tools=TOOLS, tool_choice="none"),
    ),
]
REASONING: Final = [
    Answer(
        "thoughts, then text",
        "qwen3",
        "<think>\nHm — 🦙.\n\nYes.\n</think>\n\nHello.",
        "Hello.",
        "Hm — 🦙.\n\nYes.",
    ),
    Answer(
        "thoughts, text, a call",
        "qwen3",
        f"<think>\nHm.\n</think>\n\nI look.\n{_tag('get_weather', CITY)}",
        "I look.",
        "Hm.",
        [BERLIN],
    ),
    Answer(
        "thoughts, then a call",
        "qwen3",
        f"<think>\nHm.\n</think>\n\n{_tag('get_weather', CITY)}",
        reasoning="Hm.",
        calls=[BERLIN],
    ),
    Answer("thoughts without end", "qwen3", "<think>\nHm. </thin\n", "", "Hm. </thin\n"),
    Answer("no thoughts", "qwen3", "Hello <think> there", "Hello <think> there"),
    Answer("white space, no thoughts", "qwen3", "\n\n Hello", "\n\n Hello"),
    Answer("white space, thoughts", "qwen3", "\n<think>\n\n</think>\n\nHello", "Hello"),
    Answer(
        "a call within thoughts is a thought",
        "qwen3",
        f"<think>{_tag('now', '{}')}</think>Hello",
        "Hello",
        _tag("now", "{}"),
    ),
    Answer(
        "tags behind thoughts",
        "qwen3",
        "<think>a</think>b<think>c</think>",
        "b<think>c</think>",
        "a",
    ),
    Answer(
        "thoughts with no tools offered",
        "qwen3",
        "<think>\na <tool_call>\n</think>\n\n b  c \n",
        "b  c \n",
        "a <tool_call>",
        dialogue=wire.Dialogue(),
    ),
    Answer(
        "tags where thinking was turned off",
        "qwen3",
        "<think>a</think>b",
        "<think>a</think>b",
        dialogue=wire.Dialogue(thinking=False),
    ),
    Answer("begun by the prompt", "deepseek-r1", "Hm.\n</think>\n\nHello", "Hello", "Hm."),
    Answer("begun by the prompt, without end", "deepseek-r1", "Hm.", "", "Hm."),
    Answer(
        "closed by the prompt",
        "deepseek-r1",
        "Hm.</think>",
        "Hm.</think>",
        dialogue=wire.Dialogue(effort="none"),
    ),
    Answer(
        "asked for",
        "deepseek-v3.1",
        "Hm.</think>Hello",
        "Hello",
        "Hm.",
        dialogue=wire.Dialogue(thinking=True),
    ),
    Answer("not asked for", "deepseek-v3.1", "<think> Hello", "<think> Hello"),
    Answer(
        "thoughts and a response, each in its markers",
        "command-r7b",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Hello.<|END_RESPONSE|>",
        "Hello.",
        "Hm.",
        dialogue=wire.Dialogue(thinking=True),
    ),
    Answer(
        "a response in its markers",
        "command-r7b",
        "<|START_RESPONSE|>Hello, <|START|>.<|END_RESPONSE|>",
        "Hello, <|START|>.",
        dialogue=wire.Dialogue(),
    ),
    Answer(
        "thoughts and a response as tags",
        "granite-3.3",
        "<think>Hm.</think>\n<response>Hello.</response>",
        "Hello.",
        "Hm.",
        dialogue=wire.Dialogue(thinking=True),
    ),
    Answer(
        "brackets around thoughts",
        "magistral",
        "[THINK]Hm [TH.[/THINK]Hello [THINK].",
        "Hello [THINK].",
        "Hm [TH.",
    ),
    Answer(
        "thoughts of its own tag", "seed-oss", "<seed:think>Hm.</seed:think>Hello.", "Hello.", "Hm."
    ),
]
_R1: Final = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
_V3: Final = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
_KIMI: Final = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
_ACTION: Final = '    {{"tool_call_id": "{}", "tool_name": "{}", "parameters": {}}}'
BOTH: Final = [BERLIN, ("note", TRICKY)]
FAMILIES: Final = [
    Answer("a call", "llama-3.1", _json("get_weather", CITY, "parameters"), calls=[BERLIN]),
    Answer(
        "a call behind its marker",
        "llama-3.1",
        f"<|python_tag|>{_json('note', TRICKY_JSON, 'parameters')}",
        calls=[("note", TRICKY)],
    ),
    Answer(
        "a call that says its type",
        "llama-3.1",
        f'\n{{"type": "function", "name": "get_weather", "parameters": {CITY}}}',
        calls=[BERLIN],
    ),
    Answer(
        "several calls after all",
        "llama-3.1",
        f"{_json('get_weather', CITY, 'parameters')}; {_json('now', '{}', 'parameters')}",
        calls=[BERLIN, ("now", {})],
    ),
    Answer(
        "JSON that is no call",
        "llama-3.1",
        ' {"name": "Alice", "parameters": {"age": 3}}',
        ' {"name": "Alice", "parameters": {"age": 3}}',
    ),
    Answer("a name that is no call", "llama-3.1", '{"name": "now"}', '{"name": "now"}'),
    Answer(
        "text that mentions a call",
        "llama-3.1",
        f"So: {_json('now', '{}', 'parameters')}",
        f"So: {_json('now', '{}', 'parameters')}",
    ),
    Answer(
        "a list of calls",
        "mistral-nemo",
        f"[TOOL_CALLS][{_json('get_weather', CITY)}, {_json('note', TRICKY_JSON)}]",
        calls=BOTH,
    ),
    Answer(
        "a list with ids",
        "mistral-nemo",
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {CITY}, "id": "abcdef123"}}]',
        calls=[BERLIN],
    ),
    Answer(
        "names, ids and arguments",
        "mistral-small",
        f"[TOOL_CALLS]get_weather[CALL_ID]abcdef123[ARGS]{CITY}"
        f"[TOOL_CALLS]note[CALL_ID]abcdef124[ARGS]{TRICKY_JSON}",
        calls=BOTH,
    ),
    Answer(
        "a name without an id",
        "mistral-small",
        f"I look.[TOOL_CALLS]get_weather[ARGS]{CITY}",
        "I look.",
        calls=[BERLIN],
    ),
    Answer(
        "thoughts, names and arguments",
        "magistral",
        f"[THINK]Hm.[/THINK]I look.[TOOL_CALLS]get_weather[ARGS]{CITY}"
        f"[TOOL_CALLS]note[ARGS]{TRICKY_JSON}",
        "I look.",
        "Hm.",
        BOTH,
    ),
    Answer(
        "thoughts and a section of fenced calls",
        "deepseek-r1",
        "Hm.\n</think>\n\n<｜tool▁calls▁begin｜>"
        f"{_R1.format('get_weather', CITY)}\n{_R1.format('note', TRICKY_JSON)}<｜tool▁calls▁end｜>",
        reasoning="Hm.",
        calls=BOTH,
    ),
    Answer(
        "a section of calls",
        "deepseek-v3.1",
        f"I look.<｜tool▁calls▁begin｜>{_V3.format('get_weather', CITY)}"
        f"{_V3.format('note', TRICKY_JSON)}<｜tool▁calls▁end｜>",
        "I look.",
        calls=BOTH,
    ),
    Answer(
        "a section of numbered calls",
        "kimi-k2",
        f"<|tool_calls_section_begin|>{_KIMI.format('get_weather', 0, CITY)}"
        f"{_KIMI.format('note', 1, TRICKY_JSON)}<|tool_calls_section_end|>",
        calls=BOTH,
    ),
    Answer(
        "a plan and actions",
        "command-r7b",
        "<|START_THINKING|>I look.<|END_THINKING|><|START_ACTION|>[\n"
        f"{_ACTION.format(0, 'get_weather', CITY)},\n{_ACTION.format(1, 'note', TRICKY_JSON)}\n"
        "]<|END_ACTION|>",
        reasoning="I look.",
        calls=BOTH,
        dialogue=wire.Dialogue(tools=TOOLS, thinking=True),
    ),
    Answer(
        "a list behind a marker",
        "granite-3.3",
        f"<|tool_call|>[{_json('get_weather', CITY)}, {_json('note', TRICKY_JSON)}]",
        calls=BOTH,
    ),
    Answer(
        "a list in tags",
        "nemotron-nano",
        f"Hm.\n</think>\n<TOOLCALL>[{_json('get_weather', CITY)}, {_json('note', TRICKY_JSON)}]</TOOLCALL>",
        reasoning="Hm.",
        calls=BOTH,
    ),
    Answer(
        "tags with the name in them",
        "functionary-3.1",
        f"<function=get_weather>{CITY}</function><function=note>{TRICKY_JSON}</function>",
        calls=BOTH,
    ),
    Answer(
        "a tag with a name that is not there",
        "functionary-3.1",
        "<function=get>{}</function>",
        "<function=get>{}</function>",
    ),
    Answer(
        "told in words", "phi-4", f"I look.\n{_tag('get_weather', CITY)}", "I look.", calls=[BERLIN]
    ),
    Answer(
        "told in words to the user", "gemma-2", _tag("note", TRICKY_JSON), calls=[("note", TRICKY)]
    ),
]
_XML: Final = "<tool_call>\n<function={}>\n{}</function>\n</tool_call>"
_ONE: Final = "<parameter={}>\n{}\n</parameter>\n"
ONE_BY_ONE: Final = [
    Answer(
        "arguments of every type",
        "qwen3-coder",
        _XML.format(
            "note",
            _ONE.format("text", 'Line "1"\n\n  line 2 \\ é🦙\n')
            + _ONE.format("urgent", "true")
            + _ONE.format("tags", '["a", "b"]')
            + _ONE.format("due", "null")
            + _ONE.format("extra", '{"a": [1.5]}'),
        ),
        calls=[
            (
                "note",
                {
                    "text": 'Line "1"\n\n  line 2 \\ é🦙\n',
                    "urgent": True,
                    "tags": ["a", "b"],
                    "due": None,
                    "extra": {"a": [1.5]},
                },
            )
        ],
    ),
    Answer(
        "text that looks like other types",
        "qwen3-coder",
        _XML.format(
            "note",
            _ONE.format("text", "12")
            + _ONE.format("urgent", "False")
            + _ONE.format("due", "12")
            + _ONE.format("extra", "not [json"),
        ),
        calls=[("note", {"text": "12", "urgent": False, "due": "12", "extra": "not [json"})],
    ),
    Answer(
        "several calls behind text",
        "qwen3-coder",
        "I look.\n\n"
        + _XML.format("get_weather", _ONE.format("city", "Berlin") + _ONE.format("days", "2"))
        + "\n"
        + _XML.format("now", ""),
        "I look.",
        calls=[("get_weather", {"city": "Berlin", "days": 2}), ("now", {})],
    ),
    Answer(
        "the end of an argument within one",
        "qwen3-coder",
        _XML.format("note", _ONE.format("text", "<a>\n</parameter>\n</a></parameter> b")),
        calls=[("note", {"text": "<a>\n</parameter>\n</a></parameter> b"})],
    ),
    Answer(
        "no line breaks",
        "qwen3-coder",
        "<tool_call><function=get_weather><parameter=city>Berlin</parameter></function></tool_call>",
        calls=[BERLIN],
    ),
    Answer(
        "an argument that is not declared",
        "qwen3-coder",
        _XML.format("now", _ONE.format("zone", "CET")),
        calls=[("now", {"zone": "CET"})],
    ),
    Answer(
        "a call cut off in text",
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nBer",
        calls=[("get_weather", '{"city": "Ber')],
    ),
    Answer(
        "a call cut off between arguments",
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nBerlin\n</parameter>\n",
        calls=[("get_weather", '{"city": "Berlin"')],
    ),
    Answer(
        "a tag without a function",
        "qwen3-coder",
        "<tool_call>\n<function=get_weather and so on",
        "<tool_call>\n<function=get_weather and so on",
    ),
    Answer(
        "keys and values",
        "glm-4.5",
        "\n<think>Hm.</think>\nI look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
        "<arg_value>Berlin\n</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
        "</tool_call>\n<tool_call>now\n</tool_call>",
        "I look.",
        "Hm.",
        [("get_weather", {"city": "Berlin\n", "days": 2}), ("now", {})],
    ),
    Answer(
        "keys and values without line breaks",
        "glm-4.5",
        "<think></think><tool_call>get_weather<arg_key>city</arg_key><arg_value>Berlin</arg_value>"
        "</tool_call>",
        calls=[BERLIN],
    ),
    Answer(
        "a tag of its own",
        "seed-oss",
        "<seed:think>Hm.</seed:think>\n<seed:tool_call>\n<function=note>\n"
        "<parameter=text>\nBuy\nmilk\n</parameter>\n<parameter=urgent>true</parameter>\n"
        "</function>\n</seed:tool_call>",
        reasoning="Hm.",
        calls=[("note", {"text": "\nBuy\nmilk\n", "urgent": True})],
    ),
    Answer(
        "names in attributes",
        "minimax-m2",
        'Hm.\n</think>\n\n<minimax:tool_call>\n<invoke name="get_weather">\n'
        '<parameter name="city">Berlin</parameter>\n<parameter name="days">2</parameter>\n'
        '</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        reasoning="Hm.",
        calls=[("get_weather", {"city": "Berlin", "days": 2}), ("now", {})],
    ),
]
_FINAL: Final = "<|channel|>final<|message|>"
_THEN: Final = "<|end|><|start|>assistant"
_TO: Final = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}"
HARMONY: Final = [
    Answer("a final message", "gpt-oss", f"{_FINAL}Hello.<|return|>", "Hello."),
    Answer(
        "analysis, then a final message",
        "gpt-oss",
        f"<|channel|>analysis<|message|>Hm <|ch.{_THEN}{_FINAL}Hello.\n",
        "Hello.\n",
        "Hm <|ch.",
        dialogue=wire.Dialogue(),
    ),
    Answer(
        "analysis, then a call",
        "gpt-oss",
        f"<|channel|>analysis<|message|>Hm.{_THEN}{_TO.format('note', TRICKY_JSON)}<|call|>",
        reasoning="Hm.",
        calls=[("note", TRICKY)],
    ),
    Answer(
        "markers in arguments",
        "gpt-oss",
        _TO.format("note", '{"text": "<|call|><|start|>assistant"}') + "\n<|call|>",
        calls=[("note", {"text": "<|call|><|start|>assistant"})],
    ),
    Answer(
        "a call addressed first",
        "gpt-oss",
        f" to=functions.get_weather<|channel|>commentary json<|message|>{CITY}",
        calls=[BERLIN],
    ),
    Answer(
        "a preamble, then a call",
        "gpt-oss",
        f"<|channel|>commentary<|message|>I look.{_THEN}{_TO.format('get_weather', CITY)}",
        "I look.",
        calls=[BERLIN],
    ),
    Answer(
        "several thoughts",
        "gpt-oss",
        f"<|channel|>analysis<|message|>One.{_THEN}<|channel|>analysis<|message|>Two.",
        reasoning="One.\n\nTwo.",
    ),
    Answer(
        "a call to nobody",
        "gpt-oss",
        f"{_TO.format('delete_all', '{}')}<|call|>",
        _TO.format("delete_all", "{}"),
    ),
    Answer("no header at all", "gpt-oss", "Hello <|there|>.", "Hello <|there|>."),
    Answer("a header without end", "gpt-oss", "<|channel|>final", "<|channel|>final"),
    Answer("analysis without end", "gpt-oss", "<|channel|>analysis<|message|>Hm<|en", "", "Hm<|en"),
]
ANSWERS: Final = [*HERMES, *REASONING, *FAMILIES, *ONE_BY_ONE, *HARMONY]
