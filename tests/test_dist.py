"""The wheel: that all of it is there which cannot be missed only once somebody has installed it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.check_dist import wheel_in
from tabagent.commands.extension_folder import extension_folder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    place = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(place)]
    done = subprocess.run(
        [*build, str(ROOT)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(wheel_in(place))


def relative(*folders: str) -> set[str]:
    return {
        str(file.relative_to(ROOT))
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    missing = relative("tabagent", "native_host") - set(wheel.namelist())
    assert not missing


def test_the_built_in_models_are_in_the_wheel_whole(wheel: zipfile.ZipFile) -> None:
    for name in ("tabagent/builtin/guide.gguf", "tabagent/builtin/embed/onnx/model_int8.onnx"):
        assert wheel.read(name) == (ROOT / name).read_bytes()


def test_the_extension_is_where_the_installed_command_looks_for_it(
    wheel: zipfile.ZipFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = {f"tabagent/{file}" for file in relative("extension-manifest")}
    assert packed <= set(wheel.namelist())
    wheel.extractall(tmp_path)
    import tabagent

    monkeypatch.setattr(tabagent, "__file__", str(tmp_path / "tabagent/__init__.py"))
    assert extension_folder() == tmp_path / "tabagent/extension-manifest"
    monkeypatch.undo()
    assert extension_folder() == ROOT / "extension-manifest"  # and in a checkout


def test_the_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests and no scripts, and no copy of the API's description, which `openapi` prints."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tabagent", "native_host"}
    assert not [name for name in wheel.namelist() if name.endswith(("openapi.json", ".pyc"))]


def test_the_wheel_brings_the_command(wheel: zipfile.ZipFile) -> None:
    (points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert b"tabagent = tabagent.cli:main" in wheel.read(points)


def test_a_folder_with_another_number_of_wheels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has 0 wheels"):
        wheel_in(tmp_path)
    for version in ("0.1.0", "0.2.0"):
        (tmp_path / f"tabagent-{version}-py3-none-any.whl").touch()
    with pytest.raises(SystemExit, match="has 2 wheels"):
        wheel_in(tmp_path)
