"""Chat templates in their child process: exact for honest ones, short for hostile ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tabagent.errors import ChatTemplateRejected
from tabagent.worker.template import TemplateRenderer
from tests.live import eventually
from tests.worker.tiny_gguf import CHATML

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi é🦙 "},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "2 < 3"},
]


@pytest.fixture
def renderer(request: pytest.FixtureRequest) -> Iterator[TemplateRenderer]:
    made = TemplateRenderer(request.param)
    yield made
    made.close()


def render(template: str, **variables: Any) -> str:
    made = TemplateRenderer(template)
    try:
        return made.render(variables)
    finally:
        made.close()


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "template_process" in " ".join(p.cmdline())]


# ---- honest ones --------------------------------------------------------------------------------
def test_chatml_renders_exactly() -> None:
    assert render(CHATML, messages=TALK, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi é🦙 <|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\n2 < 3<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_llama_3_style_template_renders_exactly() -> None:
    template = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if tools is not none and tools is defined %}
    {{- tools | tojson(indent=2) }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
    text = render(
        template,
        messages=TALK[:2],
        bos_token="<|begin_of_text|>",
        add_generation_prompt=True,
        tools=[{"name": "größe"}],
    )
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi é🦙<|eot_id|>"
        '[\n  {\n    "name": "größe"\n  }\n]'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set talk = messages[1:] %}
{%- else %}
    {%- set talk = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{{- bos_token }}
{%- for message in talk %}
    {%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}
        {{- raise_exception('roles must alternate user and assistant') }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system is defined %}
            {{- '[INST] ' + system + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""


@pytest.mark.parametrize("renderer", [MISTRAL], indirect=True)
def test_a_mistral_style_template_renders_exactly_and_refuses_in_its_own_words(
    renderer: TemplateRenderer,
) -> None:
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    assert renderer.render({"messages": TALK, **variables}) == (
        "<s>[INST] Be brief.\n\n Hi é🦙  [/INST] Yes?</s>[INST] 2 < 3 [/INST]"
    )
    with pytest.raises(ChatTemplateRejected, match=r"^roles must alternate user and assistant$"):
        renderer.render({"messages": [TALK[1], TALK[1]], **variables})
    assert len(children()) == 1  # a refusal costs no process


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a {% generation %}{{ 1 + 1 }}{% endgeneration %} b", "a 2 b"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        (
            "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("{{ {'b': '<é>', 'a': [1, none]} | tojson }}", '{"b": "<é>", "a": [1, null]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{{ strftime_now('%Y') | length }}", "4"),
        (
            "{% set n = namespace(x=1) %}{% for i in [1] %}{% set n.x = 5 %}{% endfor %}{{ n.x }}",
            "5",
        ),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ missing }}{{ missing is defined }}", "False"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m('&') }}", "<1><&>"),
        ("{{ 'aXb'.split('X') | last }}{{ '  x '.strip() }}{{ 'abc'[::-1] }}", "bxcba"),
    ],
)
def test_what_hugging_faces_templates_use_is_there(template: str, text: str) -> None:
    assert render(template) == text


# ---- hostile ones -------------------------------------------------------------------------------
NESTED = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
DOUBLING = (
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}"
    "{% endfor %}{{ n.s }}"
)
HOSTILE = {
    "endless nested ranges": NESTED,
    "doubling a string": DOUBLING,
    "a huge repetition": "{{ 'a' * 10 ** 10 }}",
    "a huge repetition that no compiler folds": "{{ messages[0].content * 10 ** 10 }}",
    "a huge power that no compiler folds": "{% set n = messages | length + 8 %}{{ n ** (n ** n) }}",
    "a huge range": "{{ range(10 ** 9) | list }}",
    "a huge padding": "{{ '%999999999d' % 1 }}",
    "a huge format": "{{ '{:999999999}'.format(1) }}",
    "much output in small pieces": "{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}",
    "the classes of a string": "{{ ''.__class__.__mro__ }}",
    "the subclasses of object": "{{ ().__class__.__base__.__subclasses__() }}",
    "a filter for attributes": "{{ ('' | attr('__class__')).mro() }}",
    "a format string's attributes": "{{ '{0.__class__.__mro__}'.format('') }}",
    "a mapped attribute": "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "the globals of a function": "{{ lipsum.__globals__['os'].system('true') }}",
    "the globals of our own function": "{{ raise_exception.__globals__.os.getpid() }}",
    "the initialiser of a helper": "{{ cycler.__init__.__globals__.os.getpid() }}",
    "changing a list": "{{ messages.append(1) }}",
    "its own words": "{{ raise_exception('made to fail') }}",
    "calling what is not there": "{{ missing() }}",
    "an attribute of what is not there": "{{ missing.attribute }}",
    "a syntax error": "{% for %}",
    "an unclosed block": "{% if true %}",
    "an unknown tag": "{% frobnicate %}",
    "an unknown filter": "{{ 1 | frobnicate }}",
    "endless recursion of a macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a recursive loop": "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    "too deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "too deep blocks": "{% for x in [1] %}" * 40 + "{% endfor %}" * 40,
    "including a file": "{% include '/etc/passwd' %}",
    "importing a file": "{% import 'os' as os %}",
    "extending a file": "{% extends 'base.html' %}",
    "dividing by zero": "{{ 1 / 0 }}",
    "half a character": r"{{ '\ud800' }}",
    "half a character in an error": r"{{ raise_exception('\ud800') }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_rejected_in_time_and_the_next_render_works(name: str) -> None:
    guarded = "{% if messages %}" + HOSTILE[name] + "{% else %}fine{% endif %}"
    if "compile" in name or name.startswith(("a syntax", "an un", "too deep", "extending")):
        guarded = HOSTILE[name]  # what does not compile is not rescued by a condition
    made = TemplateRenderer(guarded)
    try:
        made._child._within(20, made._child._read)  # started: its first request is timed alone
        made._child._ready = True
        began = time.monotonic()
        with pytest.raises(ChatTemplateRejected) as rejection:
            made.render({"messages": [{"role": "user", "content": "x"}]})
        assert time.monotonic() - began < 3.5
        assert rejection.value.detail.encode()
        assert len(rejection.value.detail) <= 600
        made._template = "fine"
        assert made.render({}) == "fine"
        assert len(children()) == 1
    finally:
        made.close()


@pytest.mark.parametrize("renderer", ["{% if bomb %}" + NESTED + "{% endif %}fine"], indirect=True)
def test_the_same_template_renders_again_after_it_was_killed(renderer: TemplateRenderer) -> None:
    with pytest.raises(ChatTemplateRejected, match="more than 2 seconds"):
        renderer.render({"bomb": True})
    assert renderer.render({"bomb": False}) == "fine"


@pytest.mark.parametrize("renderer", ["fine"], indirect=True)
def test_a_child_killed_from_outside_costs_no_request(renderer: TemplateRenderer) -> None:
    assert renderer.render({}) == "fine"
    (child,) = children()
    child.kill()
    eventually(lambda: child.status() == psutil.STATUS_ZOMBIE)
    assert renderer.render({}) == "fine"


@pytest.mark.parametrize("renderer", ["{{ messages }}"], indirect=True)
def test_a_large_prompt_passes_and_a_larger_one_is_refused(renderer: TemplateRenderer) -> None:
    assert len(renderer.render({"messages": "🦙" * 2**22})) == 2**22
    with pytest.raises(ChatTemplateRejected, match="grew over"):
        renderer.render({"messages": "a" * (2**23 + 1)})
    assert renderer.render({"messages": "a" * 2**23}).startswith("aaa")


def test_a_child_whose_worker_is_gone_ends_by_itself() -> None:
    made = TemplateRenderer(NESTED)
    try:
        (child,) = children()
        made._child._within = lambda seconds, work: work()  # type: ignore[method-assign]  # no killer
        began = time.monotonic()
        with pytest.raises(ChatTemplateRejected):
            made.render({})
        assert time.monotonic() - began < 6
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        made.close()


def test_close_ends_the_child() -> None:
    made = TemplateRenderer("fine")
    made.close()
    assert children() == []
