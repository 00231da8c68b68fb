"""`doctor` and `recommend`, as a person reads them."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tabagent.catalog.recommended import recommended
from tabagent.commands import checks
from tabagent.config import Settings
from tabagent.hardware.devices import Kind
from tabagent.hardware.probe import probe
from tabagent.replies.hardware import HardwareInfo
from tabagent.services.hardware.recipes import recipes
from tests.commands.test_serve import run, serving
from tests.hardware.recorded import LLAMA, machine, record

GB = 10**9


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def verdicts(text: str) -> dict[str, str]:
    """By subject, the worst of what is said of it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        verdict, _, rest = line.partition("  ")
        if verdict.strip() in ("ok", "warn", "fail"):
            found[rest.strip().partition("  ")[0]] = verdict.strip()
    return found


def test_an_installation_that_is_well_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("TABAGENT_PORT", str(port))
    done = run("doctor", "--data-dir", str(tmp_path / "d"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = verdicts(done.stdout)
    for subject in ("server", "data", "hub", "processor", "llama.cpp", "ONNX Runtime"):
        assert found[subject] == "ok", done.stdout
    assert f"port {port} is free" in done.stdout
    assert "is made on the first start" in done.stdout
    assert not (tmp_path / "d").exists()  # it looks and leaves nothing


def test_beside_a_server_it_says_what_the_server_says(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        done = run("doctor", "--data-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"serves at {url} (pid {process.pid})" in done.stdout
    assert verdicts(done.stdout)["llama.cpp"] == "ok"


def test_a_port_that_somebody_has_is_a_failure_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("TABAGENT_PORT", str(port))
        done = run("doctor", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stdout
    assert f"→ choose another: tabagent serve --port {port + 1}" in done.stdout
    assert "1 failure" in done.stdout


def test_a_data_directory_that_is_a_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = checks.data_directory(Settings(data_dir=tmp_path / "file"))
    assert (check.verdict, "cannot be written" in check.says) == ("fail", True)


def test_a_data_directory_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    place = tmp_path / "d"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    check = checks.data_directory(Settings(data_dir=place))
    assert (check.verdict, check.fix) == ("warn", f"chmod 700 {place}")
    place.chmod(0o700)
    assert checks.data_directory(Settings(data_dir=place)).verdict == "ok"
    (place / "token").write_text("x" * 64)
    (place / "token").chmod(0o644)
    assert checks.data_directory(Settings(data_dir=place)).verdict == "fail"


@pytest.mark.parametrize(
    ("free", "verdict"), [(500 * 10**6, "fail"), (5 * GB, "warn"), (50 * GB, "ok")]
)
def test_room_for_models_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    check = checks.disk(Settings(data_dir=tmp_path / "not" / "there"))
    assert check.verdict == verdict


def test_a_database_is_checked_where_there_is_one(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert list(checks.databases(settings)) == []
    with sqlite3.connect(tmp_path / "good.db") as made:
        made.execute("CREATE TABLE t (x)")
    made.close()
    (tmp_path / "torn.db").write_bytes(b"SQLite format 3\0" + b"torn" * 500)
    good, torn = checks.databases(settings)
    assert (good.verdict, torn.verdict) == ("ok", "fail")
    assert "torn.db" in torn.fix


def test_the_hub_says_whose_token_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    none, file = {"set": False, "source": None}, {"set": True, "source": "file"}
    assert (
        "https://huggingface.co, no token: public models alone" in checks.hub(settings, none).says
    )
    assert "a token from the file" in checks.hub(settings, file).says
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert checks.hub(settings, file).verdict == "warn"


def looked_over(root: Path, name: str, *kinds: Kind, **changes: Any) -> dict[str, checks.Check]:
    """The last line of each subject, on a recorded machine."""
    children = {
        "tabagent.worker.gguf.report": LLAMA,
        "tabagent.worker.providers": {"providers": ["CPUExecutionProvider"]},
    }
    versions = {"llama-cpp-python": "0.3.36", "onnxruntime": "1.31.1"}
    options: dict[str, Any] = {"versions": versions, "children": children} | changes
    found = probe(machine(record(name), root, kinds=frozenset(kinds), **options))
    info = HardwareInfo.of(found).model_dump(mode="json")
    rows = [recipe.model_dump(mode="json") for recipe in recipes(found)]
    return {check.subject: check for check in checks.machine(info, rows)}


def test_a_card_that_goes_unused_is_a_warning_with_what_to_install(tmp_path: Path) -> None:
    found = looked_over(tmp_path, "h200_server")["graphics"]
    assert found.verdict == "warn"
    assert "150 GB of 151 GB free, driver 575.57.08" in found.says
    assert "GGML_CUDA" in found.fix


@pytest.mark.parametrize(
    ("name", "subject", "verdict", "says"),
    [
        ("laptop", "graphics", "ok", "the processor is as fast"),
        ("raspberry_pi_5", "graphics", "ok", "models run on the processor"),
        ("no_driver", "graphics", "warn", "has no driver"),
        ("no_driver", "processor", "warn", "avx"),
        ("no_driver", "not found out", "warn", "has no driver"),
        ("container", "memory", "ok", "a limit (cgroup memory.max) hides the rest of 67.4 GB"),
        ("container", "processor", "ok", "16 cores of which 2 may be used"),
        ("apple_m2_pro", "graphics", "warn", "cannot use metal"),
    ],
)
def test_recorded_machines_read_well(
    tmp_path: Path, name: str, subject: str, verdict: str, says: str
) -> None:
    check = looked_over(tmp_path, name)[subject]
    assert (check.verdict, says in check.says) == (verdict, True), check


@pytest.mark.parametrize(
    ("changes", "fix"),
    [({"versions": {}}, "pip install llama-cpp-python"), ({"children": {}}, "--force-reinstall")],
)
def test_without_llama_cpp_nothing_works(tmp_path: Path, changes: dict[str, Any], fix: str) -> None:
    check = looked_over(tmp_path, "laptop", **changes)["llama.cpp"]
    assert (check.verdict, fix in check.fix) == ("fail", True), check


# ---- recommend -----------------------------------------------------------------------------------
def test_models_are_recommended_with_how_to_get_them(tmp_path: Path) -> None:
    place = ["--data-dir", str(tmp_path)]
    alone = run("recommend", *place, "--all")
    assert alone.returncode == 0, alone.stderr
    for model in recommended().models:
        assert model.repo in alone.stdout
    assert "Get one: tabagent pull " in alone.stdout
    assert str(recommended().dated) in alone.stdout
    with serving(tmp_path):
        beside = run("recommend", "--task", "rerank", *place)
    assert "reranker" in beside.stdout.lower()
    assert "gpt-oss" not in beside.stdout


def test_a_task_that_is_none_is_refused(tmp_path: Path) -> None:
    refused = run("recommend", "--task", "poetry", "--data-dir", str(tmp_path))
    assert refused.returncode == 2
    assert "one of chat, completion, embedding, rerank" in refused.stderr


def test_the_tables_fit_into_eighty_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in (["doctor"], ["recommend", "--all"]):
        shown = run(*command, "--data-dir", str(tmp_path)).stdout
        assert max(len(line) for line in shown.splitlines()) <= 80
