"""What holds for the project as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from starlette.routing import Route

from tabagent.transports.metrics import metrics_route
from tabagent.transports.pages import page_routes

ROOT = Path(__file__).parent.parent
HEAVY = {
    "llama_cpp",
    "sqlalchemy",
    "onnxruntime",
    "lancedb",
    "torch",
    "transformers",
    "numpy",
    "pyarrow",
    "aiortc",
    "av",
    "prometheus_client",
    "opentelemetry",
}


def dependencies() -> list[str]:
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    return found


def test_the_default_installation_asks_for_no_torch() -> None:
    needs = " ".join(dependencies())
    assert "torch" not in needs
    assert "sentence-transformers" not in needs


def test_the_gateway_imports_nothing_heavy() -> None:
    """Start-up time and memory rest on this: engines live in workers."""
    program = "import sys, tabagent.commands.serve; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert HEAVY & {name.partition(".")[0] for name in modules} == set()


def test_the_workers_of_the_default_installation_import_no_torch() -> None:
    program = (
        "import sys, tabagent.worker.onnx.encoder, tabagent.worker.gguf.pooling_engine; "
        "print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "onnxruntime" in modules
    assert {"torch", "transformers", "sentence_transformers", "onnx"}.isdisjoint(modules)


def test_every_default_dependency_has_its_reason_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    reasons = readme[readme.index("### Dependencies, and why") :]
    for requirement in dependencies():
        name = requirement.partition(">")[0].partition(";")[0]
        assert name in reasons, name


def test_every_default_dependency_is_pinned_in_the_constraints() -> None:
    pinned = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for requirement in dependencies():
        name = requirement.partition(">")[0].partition(";")[0]
        assert f"\n{name}==" in pinned, name


def test_the_raw_routes_are_these() -> None:
    """What is not an operation is listed here by hand, so that nothing slips past the table."""

    async def nothing(accept: str) -> tuple[bytes, str]:
        return b"", accept

    routes = [*page_routes(dict, str), metrics_route(nothing)]
    assert [route.path for route in routes if isinstance(route, Route)] == [
        "/",
        "/api-doc/openapi.json",
        "/swagger-ui",
        "/swagger-ui/",
        "/swagger-ui/start.js",
        "/swagger-ui/style.css",
        "/swagger-ui/{name}",
        "/problems/",
        "/problems/{slug}",
        "/metrics",
    ]
    assert len(routes) == 10


def test_each_promise_names_tests_that_are_there() -> None:
    promises = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"(tests/[\w/.]+)", promises)
    assert len(named) > 20
    for path in named:
        assert (ROOT / path).exists(), path
