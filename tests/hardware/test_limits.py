"""Memory within control groups, as a container sees them."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest

from tabagent.hardware.limits import cpu_quota, memory, within

GB = 2**30


def group(folder: Path, **files: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("memory_", "memory.")).write_text(f"{content}\n")


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own"
    file.write_text(text)
    return file


def test_without_a_group_it_is_the_machines(tmp_path: Path) -> None:
    found = memory(tmp_path / "none", tmp_path / "nothing")
    assert found.total_bytes == psutil.virtual_memory().total


def test_a_limit_of_one_gigabyte_is_one_gigabyte(tmp_path: Path) -> None:
    group(
        tmp_path / "box", memory_max=GB, memory_current=GB // 2,
        memory_stat=f"anon 5\ninactive_file {GB // 4}",
    )  # fmt: skip
    found = memory(tmp_path, own(tmp_path, "0::/box"))
    assert found.total_bytes == GB
    assert found.available_bytes == GB - GB // 4  # cached file pages come back when wanted


def test_pages_of_mapped_models_are_available_as_on_the_machine(tmp_path: Path) -> None:
    stat = f"anon 5\nactive_file {GB // 2}\ninactive_file {GB // 8}"
    group(tmp_path / "box", memory_max=GB, memory_current=GB - 1, memory_stat=stat)
    found = memory(tmp_path, own(tmp_path, "0::/box"))
    assert found.available_bytes == 1 + GB // 2 + GB // 8


def test_a_parents_limit_counts_too(tmp_path: Path) -> None:
    group(tmp_path / "slice", memory_max=GB // 2, memory_current=0)
    group(tmp_path / "slice" / "box", memory_max="max", memory_current=0)
    assert memory(tmp_path, own(tmp_path, "0::/slice/box")).total_bytes == GB // 2


def test_within_a_container_the_path_is_the_hosts_and_the_root_is_the_own_group(
    tmp_path: Path,
) -> None:
    group(tmp_path, memory_max=GB, memory_current=0)
    assert memory(tmp_path, own(tmp_path, "0::/docker/0123abc")).total_bytes == GB


def test_the_first_version_of_groups_is_read_as_well(tmp_path: Path) -> None:
    group(
        tmp_path / "memory" / "box",
        memory_limit_in_bytes=GB,
        memory_usage_in_bytes=GB,
        memory_stat=f"total_inactive_file {GB}",
    )
    lines = "5:cpu,cpuacct:/box\n4:memory:/box\n"
    found = memory(tmp_path, own(tmp_path, lines))
    assert (found.total_bytes, found.available_bytes) == (GB, GB)
    group(tmp_path / "memory" / "box", memory_limit_in_bytes=2**63 - 4096)
    assert memory(tmp_path, own(tmp_path, lines)).total_bytes > 2 * GB


def test_a_group_that_is_full_has_nothing_left(tmp_path: Path) -> None:
    group(tmp_path / "box", memory_max=GB, memory_current=2 * GB)
    assert memory(tmp_path, own(tmp_path, "0::/box")).available_bytes == 0


def test_the_limit_says_which_file_it_is_from(tmp_path: Path) -> None:
    group(tmp_path / "box", memory_max=GB, memory_current=0)
    found = within(8 * GB, 6 * GB, tmp_path, own(tmp_path, "0::/box"))
    assert (found.total_bytes, found.machine_bytes) == (GB, 8 * GB)
    assert (found.source, found.limited) == ("cgroup memory.max", True)
    free = within(8 * GB, 6 * GB, tmp_path / "none", tmp_path / "nothing")
    assert (free.available_bytes, free.source, free.limited) == (6 * GB, "psutil", False)


@pytest.mark.parametrize(
    ("files", "groups", "quota"),
    [
        ({"cpu.max": "max 100000"}, "0::/", math.inf),
        ({"cpu.max": "150000 100000\n"}, "0::/", 1.5),
        ({"box/cpu.max": "max 100000\n", "cpu.max": "200000 100000\n"}, "0::/box", 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
         "2:cpu,cpuacct:/", math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
         "2:cpu,cpuacct:/docker/0123abc", 0.5),
        ({}, "0::/", math.inf),
    ],
)  # fmt: skip
def test_a_containers_share_of_the_processors_counts(
    tmp_path: Path, files: dict[str, str], groups: str, quota: float
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path, own(tmp_path, groups)) == quota
