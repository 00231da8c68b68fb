"""The other commands, against a running server and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tabagent.app import GUIDE
from tests.commands.test_serve import run, serving
from tests.hub.fake_hub import FakeHub


def test_models_are_listed_with_and_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir(parents=True)
    (tmp_path / "models" / "mine.gguf").write_bytes(GUIDE.read_bytes())
    (tmp_path / "models" / "bad.gguf").write_bytes(b"GGUF")
    without = run("models", "--data-dir", str(tmp_path))
    assert without.returncode == 0, without.stderr
    with serving(tmp_path):
        beside = run("models", "--data-dir", str(tmp_path))
    assert beside.stdout == without.stdout
    for words in ("tabagent/guide", "local/mine", "model-corrupt", "models directory"):
        assert words in without.stdout


def test_load_ps_and_unload(tmp_path: Path) -> None:
    place = ["--data-dir", str(tmp_path)]
    with serving(tmp_path):
        assert "No model is loaded" in run("ps", *place).stdout
        loaded = run("load", "guide", "--n-ctx", "512", "--slots", "2", *place)
        assert "tabagent/guide is loaded: context 512, 2 slots" in loaded.stdout
        listed = run("ps", *place).stdout
        assert "tabagent/guide" in listed
        assert "0/2" in listed
        assert "is unloaded" in run("unload", "guide", *place).stdout
        again = run("unload", "guide", *place)
        assert again.returncode == 1
        assert "is not loaded" in again.stderr
        assert "/problems/model-not-loaded" in again.stderr
        missing = run("load", "nobody/nothing", *place)
        assert "there is no model named 'nobody/nothing' here" in missing.stderr


@pytest.mark.parametrize("command", [["ps"], ["load", "x"], ["unload", "x"]])
def test_without_a_server_a_command_says_so(tmp_path: Path, command: list[str]) -> None:
    result = run(*command, "--data-dir", str(tmp_path))
    assert result.returncode == 69
    assert result.stderr.splitlines() == [
        "Error: no server is running",
        "  start one: tabagent serve",
    ]


def test_the_token_is_printed(tmp_path: Path) -> None:
    token = run("token", "--data-dir", str(tmp_path)).stdout.strip()
    assert token == (tmp_path / "token").read_text().strip()
    (tmp_path / "token").chmod(0o644)
    refused = run("token", "--data-dir", str(tmp_path))
    assert refused.returncode == 1
    assert "chmod 600" in refused.stderr


def test_config_shows_values_and_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABAGENT_PORT", "9000")
    monkeypatch.setenv("TABAGENT_TOKEN", "a secret that nobody may see")
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("config").stdout
    port = next(line for line in shown.splitlines() if line.startswith("port"))
    assert port.split() == ["port", "9000", "TABAGENT_PORT"]
    assert "a secret" not in shown
    assert "(set)" in shown
    monkeypatch.setenv("TABAGENT_PORT", "x")
    bad = run("config")
    assert bad.returncode == 78
    assert bad.stderr.startswith("Error: port (from TABAGENT_PORT)")


def test_config_says_that_the_token_came_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-secret-that-nobody-may-see")
    monkeypatch.setenv("TABAGENT_TOKEN_FILE", str(secret))
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("config").stdout
    token = next(line for line in shown.splitlines() if line.startswith("token "))
    assert token.split() == ["token", "(set)", "token_file"]
    assert "nobody-may-see" not in shown


def test_openapi_is_printed_written_and_checked(tmp_path: Path) -> None:
    printed = run("openapi").stdout
    assert json.loads(printed)["openapi"] == "3.1.0"
    file = tmp_path / "api.json"
    assert run("openapi", "--check", str(file)).returncode == 1
    run("openapi", "--output", str(file))
    assert file.read_text() == printed
    assert run("openapi", "--check", str(file)).returncode == 0
    file.write_text(printed.replace("TabAgent", "X"))
    stale = run("openapi", "--check", str(file))
    assert (stale.returncode, "is stale" in stale.stderr) == (1, True)


def test_version_and_help() -> None:
    assert run("version").stdout == "tabagent 0.1.0\n"
    shown = run("--help").stdout
    for command in ("serve", "chat", "models", "ps", "load", "unload", "openapi", "version"):
        assert command in shown
    assert run("sing").returncode == 2


def test_one_model_is_shown_with_what_it_takes(tmp_path: Path) -> None:
    shown = run("show", "guide", "--data-dir", str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    for words in ("tabagent/guide", "chat", "gguf", "weights", "KV cache", "are free"):
        assert words in shown.stdout
    missing = run("show", "nobody/nothing", "--data-dir", str(tmp_path))
    assert (missing.returncode, "there is no model" in missing.stderr) == (1, True)


def test_a_model_is_pulled_shown_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--data-dir", str(tmp_path)]
    with FakeHub({"m-Q4_K_M.gguf": GUIDE.read_bytes(), "m-Q8_0.gguf": bytes(9)}) as hub:
        monkeypatch.setenv("TABAGENT_HUB_ENDPOINT", hub.url)
        offered = run("pull", "maker/model", "--variants", *place).stdout
        assert "Q4_K_M" in offered
        assert "Q8_0" in offered
        with serving(tmp_path):
            done = run("pull", "maker/model:q4", *place)
        assert done.stdout.startswith("maker/model:Q4_K_M is here: "), done.stderr
        assert "maker/model:Q4_K_M" in run("models", *place).stdout
        assert run("rm", "maker/model:Q4_K_M", *place).returncode == 1
        gone = run("rm", "maker/model:Q4_K_M", "--yes", *place)
        assert "are free again" in gone.stdout
        none = run("pull", "maker/model:Q9", *place)
        assert none.returncode == 1
        assert "Q8_0, Q4_K_M" in none.stderr.replace("\n", " ") or "Q4_K_M, Q8_0" in none.stderr
        assert run("hf-token", "--status", *place).stdout == "There is no token.\n"
