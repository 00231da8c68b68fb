"""Installs the built wheel where nothing else is, and uses it as somebody who got just that.

`python -m scripts.check_dist` after `make dist`. The first run on a machine compiles llama.cpp for
minutes; later ones take it from pip's cache. `--only-install` leaves the environment for others to
look at. Standard library only: what is checked is what is installed there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
INSTALL_S: Final = 1800.0
START_S: Final = 60.0
ANSWER_S: Final = 120.0
QUESTION: Final = "How do I pull a model?"


def wheel_in(folder: Path) -> Path:
    """The one wheel there. Raises SystemExit when there is none, or more than one."""
    found = sorted(folder.glob("tabagent-*.whl"))
    if len(found) != 1:
        sys.exit(f"{folder} has {len(found)} wheels of TabAgent: run `make dist`")
    return found[0]


def install(wheel: Path, place: Path) -> Path:
    """A new environment at `place` with the wheel and what it needs; its folder of programs."""
    venv.create(place, clear=True, with_pip=True)
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True, timeout=INSTALL_S
    )
    return programs


def environment() -> dict[str, str]:
    """Without anything that could lead to this checkout, or to somebody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TABAGENT_")}
    kept.pop("PYTHONPATH", None)
    return kept


def check(programs: Path, version: str, scratch: Path) -> None:
    """Run what a person runs first. Raises AssertionError or CalledProcessError."""
    scratch.mkdir(parents=True, exist_ok=True)

    def said(*words: str) -> str:
        return subprocess.run(
            [str(programs / words[0]), *words[1:]],
            cwd=scratch,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=ANSWER_S,
        ).stdout

    assert said("tabagent", "version") == f"tabagent {version}\n"
    described = json.loads(said("tabagent", "openapi"))
    assert described == json.loads((ROOT / "openapi" / "openapi.json").read_text())
    program = "from tabagent.commands.extension_folder import extension_folder as f; print(f())"
    folder = Path(said("python", "-P", "-c", program).strip())
    assert (folder / "manifest.json").is_file(), folder
    assert programs.parent.resolve() in folder.resolve().parents, folder
    print(f"version, OpenAPI and the extension are right: {folder}")
    answer = _ask(programs / "tabagent", scratch)
    assert answer.strip(), "the built-in model said nothing"
    print(f"{QUESTION}\n  {answer.strip()}")


def _ask(tabagent: Path, scratch: Path) -> str:
    """What the built-in model answers over HTTP."""
    data = scratch / "data"
    server = subprocess.Popen(
        [str(tabagent), "serve", "--port", "0", "--data-dir", str(data)],
        cwd=scratch,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    try:
        url = _announced(server, data)
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}
        reply = _post(f"{url}/v1/chat/completions", body)
        return str(reply["choices"][0]["message"]["content"])
    finally:
        server.send_signal(signal.SIGTERM)
        ended = server.wait(START_S)
        assert ended == 0, f"the server ended with {ended}"


def _announced(server: subprocess.Popen[bytes], data: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended with {server.returncode}"
        if (data / "runtime.json").is_file():
            return str(json.loads((data / "runtime.json").read_text())["url"])
        time.sleep(0.1)
    raise AssertionError(f"the server did not start within {START_S:.0f} s")


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310  # our own server
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=ANSWER_S) as reply:
        return json.load(reply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the wheel lies")
    parser.add_argument("--place", type=Path, default=ROOT / "build" / "clean")
    parser.add_argument("--only-install", action="store_true")
    given = parser.parse_args()
    wheel = wheel_in(given.dist)
    programs = install(wheel, given.place)
    print(f"{wheel.name} is installed in {given.place}")
    if not given.only_install:
        check(programs.absolute(), wheel.name.split("-")[1], given.place.absolute() / "scratch")


if __name__ == "__main__":
    main()
