"""What the catalogue says of a template is what the worker finds by rendering it."""

from __future__ import annotations

import pytest

from tabagent.catalog.abilities import Abilities, abilities_of
from tabagent.worker.dialect.template_facts import TemplateFacts
from tabagent.worker.template import TemplateRenderer
from tests.worker.dialect.conftest import NAMES, TEMPLATES


@pytest.mark.parametrize("name", NAMES)
def test_the_claim_is_what_rendering_shows(name: str) -> None:
    source = (TEMPLATES / f"{name}.jinja").read_text()
    child = TemplateRenderer(source)
    try:
        probe = {"bos_token": "<s>", "eos_token": "</s>"}
        facts = TemplateFacts.of(source, lambda variables: child.render(probe | variables))
    finally:
        child.close()
    assert abilities_of(source) == Abilities(facts.tools, facts.reasoning is not None)


@pytest.mark.parametrize(
    ("template", "tools"),
    [
        ("{% if tools %}{{ tools }}{% endif %}", True),
        ("{%- set x = custom_tools -%}", True),
        ("You have no tools. {{ messages }}", False),
        ("{{ 'use your tools' }}{{ messages }}", False),
        ("", False),
    ],
)
def test_tools_count_where_the_template_reads_them(template: str, tools: bool) -> None:
    assert abilities_of(template).tools is tools


def test_a_hostile_template_is_read_in_its_length() -> None:
    assert abilities_of("{%" * 200_000) == Abilities()
    assert abilities_of("{{" + "'" * 400_000 + "}}") == Abilities()
    assert abilities_of("{{ '" + "\\" * 400_000) == Abilities()
