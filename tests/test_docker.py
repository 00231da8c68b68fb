"""The Dockerfile and compose.yaml, held without an engine: read, checked, and run where they can be."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tabagent.config import PREFIX, Settings
from tests.commands.test_serve import serving
from tests.live import LiveServer

ROOT = Path(__file__).parent.parent
RUNTIME = ("cpu", "cuda")
SECRET = re.compile(r"token(?!_file)|secret|passw|_key|credential", re.IGNORECASE)


@dataclass
class Stage:
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [rest for instruction, rest in self.steps if instruction == name]

    def one(self, name: str) -> str:
        (found,) = self.all(name)
        return found

    @property
    def environment(self) -> dict[str, str]:
        words = [word for rest in self.all("ENV") for word in shlex.split(rest)]
        return dict(word.split("=", 1) for word in words)


def dockerfile() -> dict[str, Stage]:
    """Its stages by name. Raises AssertionError where a line is none that it should have."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    last: Stage | None = None
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        name, _, rest = line.partition(" ")
        if name == "ARG":
            key, equals, value = rest.partition("=")
            assert equals, f"{key} has no value of its own"
            arguments[key] = value
        elif name == "FROM":
            base, middle, called = rest.split()
            assert middle == "AS"
            last = stages[called] = Stage(re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], base))
        else:
            assert name in {
                "RUN", "ENV", "COPY", "WORKDIR", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK",
                "ENTRYPOINT", "CMD",
            }, line  # fmt: skip
            assert last is not None
            last.steps.append((name, rest))
    return stages


STAGES = dockerfile()


def health_command(stage: str) -> list[str]:
    command: list[str] = json.loads(STAGES[stage].one("HEALTHCHECK").partition(" CMD ")[2])
    return [sys.executable, *command[1:]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path of the root out; the last rule that fits counts."""
    out = False
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if rule and not rule.startswith("#") and fnmatch(path, rule.removeprefix("!")):
            out = not rule.startswith("!")
    return out


def test_every_base_is_pinned_by_a_tag() -> None:
    for name, stage in STAGES.items():
        image, colon, tag = stage.base.partition(":")
        assert colon, name
        assert re.search(r"\d", tag), f"{name}: {tag} says no version"
        assert image in ("debian", "nvidia/cuda")


@pytest.mark.parametrize("name", RUNTIME)
def test_what_runs_is_not_root_and_says_how_it_does(name: str) -> None:
    stage = STAGES[name]
    order = [instruction for instruction, _ in stage.steps]
    user, _, group = stage.one("USER").partition(":")
    assert int(user) > 0  # by number: `runAsNonRoot` cannot look up a name
    assert int(group) > 0
    assert order.index("USER") < order.index("ENTRYPOINT") < order.index("CMD")
    assert order[-1] == "CMD"
    assert "RUN" not in order[order.index("USER") :]
    assert json.loads(stage.one("ENTRYPOINT")) == ["tini", "--", "tabagent"]
    assert json.loads(stage.one("CMD")) == ["serve"]
    assert stage.one("VOLUME") == "/data"
    assert stage.one("EXPOSE") == stage.environment["TABAGENT_PORT"]
    assert f"--uid {user} " in stage.all("RUN")[0]
    assert f"-o {user} " in stage.all("RUN")[0]


def test_nothing_that_builds_is_in_what_runs() -> None:
    for name in RUNTIME:
        assert "build" not in STAGES[name].base
        assert "devel" not in STAGES[name].base
        assert STAGES[name].all("COPY") == [f"--from={name}-build /opt/tabagent /opt/tabagent"]
        for tool in ("g++", "gcc", "cmake", "-dev", "pip"):
            assert tool not in " ".join(STAGES[name].all("RUN"))


def test_both_that_run_are_the_same_but_for_what_they_are_made_of() -> None:
    cpu, cuda = ([step for step in STAGES[name].steps if step[0] != "COPY"] for name in RUNTIME)
    assert cpu == cuda


def test_no_secret_is_written_into_an_image() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not SECRET.search(" ".join(re.findall(r"^ARG .*", text, re.MULTILINE)))
    for stage in STAGES.values():
        for name in stage.environment:
            assert not SECRET.search(name), name


def test_every_path_that_is_copied_is_there_and_not_ignored() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for name in ("cpu-build", "cuda-build"):
        copied = [path for rest in STAGES[name].all("COPY") for path in shlex.split(rest)[:-1]]
        for path in copied:
            assert (ROOT / path).exists(), path
            assert not ignored(path), path
        for path in wheel["targets"]["wheel"]["only-include"]:
            assert path in copied, f"the wheel is made of {path} too"
        assert {"README.md", "LICENSE", "pyproject.toml", "constraints.txt"} <= set(copied)


@pytest.mark.parametrize("path", [".git", ".venv", "secrets", "tests", "build", "x/__pycache__"])
def test_what_an_image_has_no_use_for_stays_outside(path: str) -> None:
    assert ignored(path)


def test_llama_cpp_is_built_for_any_processor() -> None:
    for name in ("cpu-build", "cuda-build"):
        run = " ".join(STAGES[name].all("RUN"))
        for flag in ("NATIVE=OFF", "BACKEND_DL=ON", "CPU_ALL_VARIANTS=ON"):
            assert f"-DGGML_{flag}" in run
        # Where the worker's binding looks for them: beside libllama.
        assert "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib" in run
        assert ("-DGGML_CUDA=ON" in run) == (name == "cuda-build")


def test_onnx_runtime_for_cards_is_of_the_version_that_was_tested() -> None:
    step = next(run for run in STAGES["cuda-build"].all("RUN") if "onnxruntime" in run)
    script = step.partition("&&")[0] + '; echo "$version"'
    version = subprocess.run(
        ["sh", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert f"onnxruntime=={version}\n" in (ROOT / "constraints.txt").read_text()


def test_every_step_is_sound_shell() -> None:
    for stage in STAGES.values():
        for run in stage.all("RUN"):
            subprocess.run(["sh", "-n", "-c", run], check=True, timeout=10)


@pytest.mark.parametrize("name", RUNTIME)
def test_the_health_check_knows_a_server_that_lives(name: str, counter: LiveServer) -> None:
    def code(port: int) -> int:
        return subprocess.run(
            health_command(name),
            env=os.environ | {"TABAGENT_PORT": str(port)},
            capture_output=True,
            timeout=30,
            check=False,
        ).returncode

    assert code(counter.gateway.port) == 0
    assert code(1) != 0


@pytest.mark.parametrize("name", RUNTIME)
def test_its_environment_serves_with_a_token_from_a_file_and_not_without(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in STAGES[name].environment.items():
        if key.startswith(PREFIX):
            assert key.removeprefix(PREFIX).lower() in Settings.model_fields
            monkeypatch.setenv(key, value)
    without = subprocess.run(
        [sys.executable, "-m", "tabagent", "serve", "--port", "0", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert without.returncode == 78
    assert "TABAGENT_TOKEN_FILE" in without.stderr
    secret = tmp_path / "secret"
    secret.write_text("a-secret-of-some-length\n")
    monkeypatch.setenv("TABAGENT_TOKEN_FILE", str(secret))
    with serving(tmp_path / "d") as (_, url):
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 401
        bearer = {"Authorization": "Bearer a-secret-of-some-length"}
        assert httpx.get(f"{url}/v1/models", headers=bearer).status_code == 200


COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.mark.parametrize(("name", "target"), [("cpu", "cpu"), ("gpu", "cuda")])
def test_compose_starts_each_with_no_more_rights_than_it_needs(name: str, target: str) -> None:
    service = COMPOSE["services"][name]
    assert service["profiles"] == [name]  # nothing starts that was not asked for
    assert service["build"] == {"context": ".", "target": target}
    assert target in STAGES
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"][0].startswith("/tmp")
    assert service["volumes"] == ["data:/data"]
    assert "data" in COMPOSE["volumes"]
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:"), "open to everybody"
        assert port.endswith(f":{STAGES[target].one('EXPOSE')}")


def test_compose_hands_the_token_over_as_a_secret_alone() -> None:
    for service in COMPOSE["services"].values():
        (secret,) = service["secrets"]
        assert service["environment"] == {"TABAGENT_TOKEN_FILE": f"/run/secrets/{secret}"}
        file = COMPOSE["secrets"][secret]["file"].removeprefix("./")
        assert ignored(file.partition("/")[0])
        assert f"{file.partition('/')[0]}/" in (ROOT / ".gitignore").read_text().splitlines()


def test_compose_gives_time_for_running_answers() -> None:
    for service in COMPOSE["services"].values():
        assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_s


def test_compose_reserves_cards_for_the_one_that_has_use_for_them() -> None:
    assert "deploy" not in COMPOSE["services"]["cpu"]
    (device,) = COMPOSE["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
