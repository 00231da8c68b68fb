"""Every operation by its name: over the native channel it says what it says over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Playwright

from native_host.install import EXTENSION_ID
from tabagent.app import api_description
from tests.bridge import approve
from tests.extension.chromium import announce, chromium, install_host
from tests.extension.steps import fresh_token
from tests.live import FAKE, LiveServer, fake_models

BEGIN = """([transport, url, token, asked]) => {
  const call = async () => {
    const { TabAgent } = await import("/client/tabagent.js");
    const agent = new TabAgent({ transports: [transport], url, token });
    const said = {};
    for (const [route, payload] of asked) {
      const signal = AbortSignal.timeout(15000);
      said[route] = await agent.call(route, payload, { signal }).then(
        (data) => ({ data }),
        (error) => ({ error: error.problem ?? String(error) }),
      );
    }
    agent.close();
    return said;
  };
  globalThis.said = call();
}"""
# What differs from call to call and from server to server: times, ids, amounts of memory, who asks.
VOLATILE = re.compile(
    r"branch|(.*_)?(at|id|ids|ms|s|bytes|seconds|second|percent|created|instance|pid|cursor|score|load)|id"
    r"|sdp|code|secret|token|url|path|epoch|caller|origin|seq|next|usage|timings|available|free"
    r"|.*similarity|cpu.*|memory|resources|models_dir|place|total|vectors?|embedding|notes|gpus"
)
SERVER_ONLY = {"events", "stats", "get_resources", "get_loaded_models", "get_recommended_models"}
"""What they tell is how this server does at this moment: alike in kind alone."""


def masked(value: Any, *, kinds: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            key: type(inner).__name__ if VOLATILE.fullmatch(key) else masked(inner, kinds=kinds)
            for key, inner in sorted(value.items())
        }
    if isinstance(value, list):
        return "list" if kinds else [masked(inner) for inner in value]
    return type(value).__name__ if kinds or isinstance(value, float) else value


def examples() -> dict[str, dict[str, Any]]:
    """The payload that the description of each operation shows."""
    found = {}
    paths: Any = api_description()["paths"]
    for methods in paths.values():
        for operation in methods.values():
            if operation["operationId"].endswith("_2"):
                continue  # an alias
            payload = {
                parameter["name"]: parameter["example"]
                for parameter in operation.get("parameters", ())
                if "example" in parameter
            }
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            found[operation["operationId"]] = payload | body.get("example", {})
    return found


@dataclass
class Side:
    """A server that is asked over one way alone, so that both go through the same."""

    server: LiveServer
    page: Page

    def begin(self, transport: str, asked: dict[str, dict[str, Any]]) -> None:
        token = fresh_token(self.server)
        self.page.evaluate(BEGIN, [transport, self.server.url, token, list(asked.items())])

    def end(self) -> dict[str, Any]:
        said: dict[str, Any] = self.page.evaluate("said")
        return said


@pytest.fixture
def sides(playwright: Playwright, tmp_path: Path) -> Iterator[list[Side]]:
    with ExitStack() as stack:
        servers = []
        for name in ("one", "other"):
            data = tmp_path / name
            data.mkdir()
            server = LiveServer(
                data,
                extra=fake_models(),
                model=FAKE,
                memory_vectors=False,
                hub_endpoint="http://127.0.0.1:9",  # nothing is pulled here
            )
            servers.append(stack.enter_context(server))
            approve(server, EXTENSION_ID, "admin")
        install_host(tmp_path / "profile", tmp_path / "one")
        announce(servers[0])
        browser = stack.enter_context(chromium(playwright, tmp_path / "profile"))
        yield [Side(server, browser.page("README.md")) for server in servers]


@pytest.mark.timeout(120)
def test_every_operation_says_the_same_over_both(sides: list[Side]) -> None:
    table = sides[0].server.client.get("/v1/routes").json()["routes"]
    asked = examples()
    assert set(asked) == {row["route"] for row in table}
    for side, transport in zip(sides, ("native", "http"), strict=True):
        side.begin(transport, asked)
    native, http = (side.end() for side in sides)
    different = []
    for route in asked:
        kinds = route in SERVER_ONLY
        one, other = masked(native[route], kinds=kinds), masked(http[route], kinds=kinds)
        if one != other:
            different.append(f"{route}:\n  {json.dumps(one)[:800]}\n  {json.dumps(other)[:800]}")
    assert not different, "\n".join(different)
    failed = {route for route, said in native.items() if "error" in said}
    assert len(asked) - len(failed) > len(asked) / 2, failed
