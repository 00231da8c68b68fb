"""Every query of the dashboard names metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabagent.config import Settings
from tabagent.exposition import FAMILIES

PLACE = Path(__file__).parent.parent.parent / "observability"
DASHBOARD: dict[str, Any] = json.loads((PLACE / "grafana.json").read_text())
WORDS = {
    "sum", "by", "rate", "increase", "histogram_quantile", "changes", "label_values",
    "le", "job", "instance", "model",
}  # fmt: skip
SCRAPED = {"job", "instance"}
NAMES: dict[str, set[str]] = {}
for family in FAMILIES:
    suffixes = ("_bucket", "_count", "_sum") if family.kind == "histogram" else ("",)
    NAMES |= {family.name + suffix: {*family.labels, "le"} for suffix in suffixes}


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])


def named(query: str) -> set[str]:
    """The metrics in a query: its words outside of labels and ranges that are no functions."""
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)|\$\w+", " ", query)
    return set(re.findall(r"[a-z_]{2,}", plain)) - WORDS


def test_every_query_names_metrics_that_exist() -> None:
    asked = [named(query) for query in queries()]
    assert len(asked) > 25
    assert all(asked)
    assert set().union(*asked) <= NAMES.keys()


def test_every_query_groups_and_chooses_by_labels_that_they_have() -> None:
    for query in queries():
        having = set.union(SCRAPED, *(NAMES[name] for name in named(query)))
        grouped = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
        chosen = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", query))
        assert grouped | chosen <= having, query


def test_every_legend_names_labels_that_are_left() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            left = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert all(re.search(rf"\b{label}\b", target["expr"]) for label in left - SCRAPED)


def test_most_of_what_is_counted_is_shown() -> None:
    shown = set().union(*(named(query) for query in queries()))
    families = {
        family.name for family in FAMILIES if any(name.startswith(family.name) for name in shown)
    }
    assert len(families) > len(FAMILIES) * 0.75


def test_prometheus_is_told_where_the_metrics_are() -> None:
    text = (PLACE / "prometheus.yml").read_text()
    assert "metrics_path: /metrics\n" in text
    assert f'targets: ["127.0.0.1:{Settings().port}"]' in text
