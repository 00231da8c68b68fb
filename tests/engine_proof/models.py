"""Tiny models with random weights, each able to do one thing that the built-in guide is not."""

from __future__ import annotations

from pathlib import Path

from tests.worker.tiny_gguf import write_model
from tests.worker.tiny_lora import write_lora

CONTEXT = 2048
PLAIN, CALLER, THINKER, SPELLER, FILLER, ADAPTER = (
    f"local/{name}" for name in ("plain", "caller", "thinker", "speller", "filler", "adapter")
)
FILL = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")

CALLING = r"""
{%- set told = messages[0].role == 'system' -%}
{%- if told or tools -%}
    {{- '<|im_start|>system\n' + (messages[0].content if told else '') -}}
    {%- for tool in tools or [] -%}
        {{- '\n<tools>' + tool | tojson + '</tools>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' -%}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content -}}
        {{- '\n</tool_response><|im_end|>\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\n' + message.content -}}
        {%- for call in message.tool_calls or [] -%}
            {{- '\n' if message.content or not loop.first -}}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' -}}
            {{- call.function.arguments | tojson + '}\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\n' -}}
    {%- elif not (told and loop.first) -%}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
THINKING = (
    CALLING
    + r"""
{%- if add_generation_prompt -%}
    {{- '<think>\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '\n</think>\n\n' -}}
    {%- endif -%}
{%- endif -%}
"""
)


def write_models(place: Path) -> None:
    """Write them all into the directory `place`."""

    def path(id_: str) -> Path:
        return place / f"{id_.removeprefix('local/')}.gguf"

    write_model(path(PLAIN), context=CONTEXT)
    write_model(path(CALLER), context=CONTEXT, template=CALLING, seed=3)
    # One has control tokens for its tags, as Qwen3 does; the other spells them in letters.
    tags = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    write_model(path(THINKER), context=CONTEXT, template=THINKING, controls=tags, seed=4)
    write_model(path(SPELLER), context=CONTEXT, template=THINKING, seed=5)
    write_model(path(FILLER), context=CONTEXT, controls=FILL, seed=6)
    write_lora(path(ADAPTER))
