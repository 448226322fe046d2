"""What a worker says about its machine, under control groups of both kinds."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from egregore_dist.resources import report

GIB = 2**30
NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores and 16 GiB, 10 of them free, with an empty folder for its control group."""
    monkeypatch.setattr(report, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10 * GIB, total=16 * GIB))
    return tmp_path


def write(group: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = group / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def test_without_a_group_the_machine_counts(group: Path) -> None:
    """Where there are no files, cores and memory are the machine's."""
    machine = report.measure()

    assert (machine.cores, machine.memory_available, machine.memory_total) == (8.0, 10 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, 8.0),
        ({"cpu.max": "1600000 100000"}, 8.0),
        ({"cpu.max": "1000 100000"}, 0.1),
        ({"cpu.max": "nonsense"}, 8.0),
        ({"cpu.max": "100000 0"}, 8.0),
        ({"cpu/cpu.cfs_quota_us": 250000, "cpu/cpu.cfs_period_us": 100000}, 2.5),
        ({"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}, 8.0),
    ],
)
def test_cores_are_those_of_the_quota(group: Path, files: dict[str, object], cores: float) -> None:
    """The quota counts where it is less than the affinity; no limit, or nonsense, changes nothing."""
    write(group, files)

    assert report.measure().cores == cores


def test_the_affinity_counts(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use two of eight cores reports two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})

    assert report.measure().cores == 2.0


@pytest.mark.parametrize(
    ("files", "available", "total"),
    [
        ({"memory.max": 4 * GIB, "memory.current": GIB}, 3 * GIB, 4 * GIB),
        ({"memory.max": 4 * GIB, "memory.current": 5 * GIB}, 0, 4 * GIB),
        ({"memory.max": 15 * GIB, "memory.current": GIB}, 10 * GIB, 15 * GIB),
        ({"memory.max": "max", "memory.current": GIB}, 10 * GIB, 16 * GIB),
        ({"memory.max": 4 * GIB}, 10 * GIB, 16 * GIB),
        ({"memory/memory.limit_in_bytes": 2 * GIB, "memory/memory.usage_in_bytes": GIB}, GIB, 2 * GIB),
        ({"memory/memory.limit_in_bytes": NO_LIMIT_V1, "memory/memory.usage_in_bytes": GIB}, 10 * GIB, 16 * GIB),
    ],
)
def test_memory_is_that_of_the_limit(group: Path, files: dict[str, object], available: int, total: int) -> None:
    """The group's limit counts where it is less than the machine's memory, and never below zero."""
    write(group, files)
    machine = report.measure()

    assert (machine.memory_available, machine.memory_total) == (available, total)


def test_this_machine_can_be_measured() -> None:
    """On the machine at hand there are cores and memory, and it has one name."""
    machine = report.measure()

    assert machine.cores > 0
    assert 0 < machine.memory_available <= machine.memory_total
    assert machine.host
    assert machine.host == report.measure().host


def test_a_report_travels() -> None:
    """A report survives the wire, and one of an older release that says less can be read."""
    said = report.Report(
        worker="w@h", host="h", pid=1, cores=1.5, memory_available=1, memory_total=2, slots=3, queues=("a",), dead=(7,)
    )
    raw = msgspec.msgpack.encode(said)
    old = msgspec.msgpack.encode(
        {"worker": "w", "host": "h", "pid": 1, "cores": 1, "memory_available": 1, "memory_total": 1, "slots": 1}
    )

    assert msgspec.msgpack.decode(raw, type=report.Report) == said
    assert msgspec.msgpack.decode(old, type=report.Report).queues == ()
