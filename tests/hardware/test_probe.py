"""The probe on recorded machines, and on this one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tabagent.hardware.findings import Note
from tabagent.hardware.limits import memory
from tabagent.hardware.machine import Unreadable, this_machine
from tabagent.hardware.probe import probe
from tests.hardware.recorded import LLAMA, NAMES, machine, plain, record

ABSENT = [
    {"name": name, "source": "installed packages"}
    for name in ("llama-cpp-python", "onnxruntime", "sentence-transformers")
]
REPORT, PROVIDERS = "tabagent.worker.gguf.report", "tabagent.worker.providers"
LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="compares with Linux's own tools")


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_machine_is_found_as_it_is(tmp_path: Path, name: str) -> None:
    said = record(name)
    assert plain(probe(machine(said, tmp_path))) == said["expected"] | {"engines": ABSENT}


def test_there_are_enough_machines_to_trust_it() -> None:
    assert len(NAMES) >= 9


def test_engines_say_what_they_are_built_for(tmp_path: Path) -> None:
    found = probe(
        machine(
            record("rtx_4060"),
            tmp_path,
            kinds=frozenset({"cuda"}),
            versions={"llama-cpp-python": "0.3.36", "onnxruntime-gpu": "1.31.1"},
            children={
                REPORT: LLAMA,
                PROVIDERS: {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
            },
        )
    )
    llama, onnx = found.engine("llama-cpp-python"), found.engine("onnxruntime")
    assert (llama.version, llama.build) == ("0.3.36", "llama.cpp 0.5.0 (abc1234)")
    assert llama.kinds == ("cuda",)
    assert [device.kind for device in llama.devices] == ["cpu"]
    assert (onnx.version, onnx.build, onnx.providers) == (
        "1.31.1",
        "onnxruntime-gpu",
        ("CUDAExecutionProvider", "CPUExecutionProvider"),
    )
    assert found.engine("sentence-transformers").version is None
    assert found.notes == ()


def test_an_engine_that_does_not_start_is_a_note(tmp_path: Path) -> None:
    versions = {"llama-cpp-python": "0.3.36", "onnxruntime": "1.31.1"}
    found = probe(machine(record("laptop"), tmp_path, versions=versions))
    assert found.engine("llama-cpp-python").version == "0.3.36"
    assert found.notes == (
        Note("llama-cpp-python", f"{REPORT} ended with 1"),
        Note("onnxruntime", f"{PROVIDERS} ended with 1"),
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_that_says_nothing_at_all_gives_notes_and_no_error(
    tmp_path: Path, name: str
) -> None:
    said = record(name) | {"files": {}, "commands": {}, "nvml": {"error": "UNKNOWN"}}
    said.pop("cpuinfo", None)
    found = probe(machine(said, tmp_path))
    assert found.cpu.logical_cores == said["counts"]["logical_cores"]
    assert found.gpus == ()
    assert found.notes[-1].text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sys/class/drm/card1/device/uevent", "DRIVER=amdgpu\nPCI_ID=1002:744C\nPCI_SLOT_NAME=?"),
        ("sys/class/kfd/kfd/topology/nodes/1/properties", "simd_count many\n"),
    ],
)
def test_a_file_of_another_form_costs_only_what_it_would_have_said(
    tmp_path: Path, path: str, text: str
) -> None:
    said: dict[str, Any] = record("radeon_7900_xtx")
    said["files"][path] = text
    found = probe(machine(said, tmp_path))
    assert found.cpu.vendor == "AMD"
    assert found.gpus == ()
    (note,) = found.notes
    assert (note.source, note.text.partition(":")[0]) == ("sysfs", "not understood")


def test_a_card_that_names_no_memory_shares_the_machines(tmp_path: Path) -> None:
    said = record("rtx_4060")
    card = said["nvml"]["cards"][0]
    del card["total"]
    found = probe(machine(said, tmp_path))
    gpu = found.gpus[0]
    assert (gpu.name, gpu.unified, gpu.total_bytes) == (card["name"], True, None)
    assert found.notes == (Note("nvml", "nvmlDeviceGetMemoryInfo: Not Supported"),)


def test_a_missing_binding_is_a_note(tmp_path: Path) -> None:
    def missing() -> Any:
        raise Unreadable("nvidia-ml-py is not installed")

    found = probe(replace(machine(record("laptop"), tmp_path), nvml=missing))
    assert found.notes == (Note("nvml", "nvidia-ml-py is not installed"),)


@LINUX
def test_this_machine_is_what_lscpu_and_proc_say() -> None:
    found = probe(this_machine())
    text = Path("/proc/cpuinfo").read_text()
    flags = next(
        (line.split() for line in text.splitlines() if line.startswith(("flags", "Features"))), []
    )
    assert ("avx2" in found.cpu.features) == ("avx2" in flags)
    assert ("neon" in found.cpu.features) == ("asimd" in flags)
    assert found.cpu.usable_cores <= len(os.sched_getaffinity(0))
    assert found.memory.total_bytes == memory().total_bytes
    assert found.memory.machine_bytes == psutil.virtual_memory().total
    assert found.engine("llama-cpp-python").build
    assert "CPUExecutionProvider" in found.engine("onnxruntime").providers
    if (lscpu := shutil.which("lscpu")) is None:
        pytest.skip("NO LSCPU: util-linux is not installed")
    said = {
        key.strip(): value.strip()
        for key, _, value in (
            line.partition(":")
            for line in subprocess.check_output(
                [lscpu], text=True, env={"LC_ALL": "C"}
            ).splitlines()
        )
    }
    assert found.cpu.architecture == said["Architecture"]
    assert found.cpu.logical_cores == int(said["CPU(s)"])
    assert found.cpu.name == said["Model name"]
    assert said["Vendor ID"] in (found.cpu.vendor, "GenuineIntel", "AuthenticAMD")
    cores = int(said["Core(s) per socket"]) * int(said["Socket(s)"])
    assert found.cpu.physical_cores == cores
