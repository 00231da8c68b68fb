"""Memory within control groups, as a container sees them."""

from __future__ import annotations

from pathlib import Path

import psutil

from tabagent.hardware.limits import memory

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
