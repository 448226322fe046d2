"""What a worker says about its machine, under control groups of both kinds, and when it cannot be measured."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest

from egregore_dist.resources import capacity, cgroup, report
from egregore_dist.resources.host import Host

GIB = 2**30
NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores and 16 GiB, 10 of them free, with an empty folder for its control groups."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(cgroup, "_ROOT", root)
    monkeypatch.setattr(cgroup, "_SELF", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10 * GIB, total=16 * GIB))
    return root


def write(group: Path, files: dict[str, object], self: str = "") -> None:
    for name, content in files.items():
        path = group / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    if self:
        (group.parent / "self").write_text(self)


def test_without_a_group_the_machine_counts(group: Path) -> None:
    """Where there are no files, cores and memory are the machine's."""
    machine = report.measure()

    assert (machine.cores, machine.memory_available, machine.memory_total) == (8.0, 10 * GIB, 16 * GIB)
    assert (machine.memory_limit, machine.group) == (0, "")
    assert (machine.cpu_group, machine.cpu_set, machine.machine_cores) == ("cpus:ff", tuple(range(8)), 8.0)


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
    machine = report.measure()

    assert (machine.cores, machine.machine_cores) == (cores, 8.0)
    folder = (group / next(iter(files))).parent
    assert machine.cpu_group == ("cpus:ff" if cores == 8.0 else str(folder.stat().st_ino))


def test_the_affinity_counts(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use two of eight cores reports two, and which, unless its quota is less."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    bound = report.measure()
    write(group, {"cpu.max": "150000 100000"})
    limited = report.measure()

    assert (bound.cores, bound.cpu_group, bound.machine_cores) == (2.0, "cpus:28", 8.0)
    assert (limited.cores, limited.cpu_group) == (1.5, str(group.stat().st_ino))
    assert bound.cpu_set == limited.cpu_set == (3, 5)


def test_cores_are_shared_within_groups() -> None:
    """Groups add up, to no more than the machine; of a release that names none the cores are one group's."""
    quota = [a_report(cores=2.0, cpu_group=name, machine_cores=16.0) for name in "aabc"]
    free = a_report(cores=16.0, machine_cores=16.0)

    assert report.cores_of(quota) == ({"a": 2.0, "b": 2.0, "c": 2.0}, 6.0)
    assert report.cores_of([*quota, free])[1] == 16.0
    assert report.cores_of([a_report(cores=2.0), a_report(cores=1.5)]) == ({"": 2.0}, 2.0)
    assert report.cores_of([]) == ({}, 0)


@pytest.mark.parametrize(
    ("workers", "cores"),
    [
        ([(2.0, "cpus:3", (0, 1)), (4.0, "cpus:f", (0, 1, 2, 3))], 4.0),
        ([(2.0, "cpus:3", (0, 1)), (2.0, "cpus:c", (2, 3))], 4.0),
        ([(1.5, "one", (0, 1)), (1.5, "other", (0, 1))], 2.0),
        ([(0.5, "one", (0, 1)), (1.0, "other", (0, 1))], 1.5),
        # One of a release that does not say.
        ([(2.0, "cpus:3", ()), (4.0, "cpus:f", (0, 1, 2, 3))], 6.0),
    ],
)
def test_together_they_have_the_cores_that_they_may_be_on(
    workers: list[tuple[float, str, tuple[int, ...]]], cores: float
) -> None:
    """What overlaps counts once, whatever quotas there are; of a release that does not say the machine bounds it."""
    reports = [
        a_report(worker=str(number), cores=own, cpu_group=group, cpu_set=cpu_set, machine_cores=8.0)
        for number, (own, group, cpu_set) in enumerate(workers)
    ]

    assert report.cores_of(reports)[1] == cores


def test_containers_that_do_not_see_their_machine_add_up(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each is shown its own limit and cores for the machine's (lxcfs), two have twice as much."""
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * GIB, total=4 * GIB))
    said = []
    for number, cores in enumerate([{0, 1}, {2, 3}]):
        root = group / f"container{number}"
        monkeypatch.setattr(cgroup, "_ROOT", root)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        write(root, {"memory.max": 4 * GIB, "memory.current": GIB})
        measured = msgspec.structs.asdict(report.measure())
        said.append(a_report(**measured | {"worker": str(number), "slots": 2, "queues": ("home",)}))

    assert [(each.cores, each.memory_total, each.memory_available) for each in said] == [(2.0, 4 * GIB, 3 * GIB)] * 2
    assert len({each.group for each in said}) == len({each.cpu_group for each in said}) == 2
    assert report.cores_of(said)[1] == 4.0
    assert Host.of(said).available == 6 * GIB
    found = capacity.tune(said, {"home": 100}, {"0": GIB * 4 // 5, "1": GIB * 4 // 5})
    assert [each.concurrency for each in found.values()] == [2, 2]


@pytest.mark.parametrize(
    ("files", "available", "total"),
    [
        ({"memory.max": 4 * GIB, "memory.current": GIB}, 3 * GIB, 4 * GIB),
        ({"memory.max": 4 * GIB, "memory.current": 5 * GIB}, 0, 4 * GIB),
        ({"memory.max": 15 * GIB, "memory.current": GIB}, 10 * GIB, 15 * GIB),
        ({"memory.max": 17 * GIB, "memory.current": 16 * GIB}, 10 * GIB, 16 * GIB),
        ({"memory.max": "max", "memory.current": GIB}, 10 * GIB, 16 * GIB),
        ({"memory.max": 4 * GIB}, 10 * GIB, 16 * GIB),
        ({"memory.max": 4 * GIB, "memory.current": -1}, 10 * GIB, 16 * GIB),
        ({"memory/memory.limit_in_bytes": 2 * GIB, "memory/memory.usage_in_bytes": GIB}, GIB, 2 * GIB),
        ({"memory/memory.limit_in_bytes": NO_LIMIT_V1, "memory/memory.usage_in_bytes": GIB}, 10 * GIB, 16 * GIB),
    ],
)
def test_memory_is_that_of_the_limit(group: Path, files: dict[str, object], available: int, total: int) -> None:
    """The group's limit counts where it is less than the machine's memory, and never below zero."""
    write(group, files)
    machine = report.measure()

    assert (machine.memory_available, machine.memory_total) == (available, total)
    assert machine.memory_limit == (total if total < 16 * GIB else 0)
    assert (machine.group != "") == (machine.memory_limit > 0)
    assert (machine.machine_available, machine.machine_total) == (10 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("files", "self", "folder"),
    [
        (
            {"memory.max": "4294967296", "memory.current": 3 * GIB, "memory.stat": f"anon 1\ninactive_file {2 * GIB}"},
            "0::/\n",
            "",
        ),
        (
            {
                "memory/memory.limit_in_bytes": 4 * GIB,
                "memory/memory.usage_in_bytes": 3 * GIB,
                "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {2 * GIB}",
            },
            "4:memory:/docker/0123\n",
            "memory",
        ),
    ],
)
def test_files_that_can_be_dropped_are_free(group: Path, files: dict[str, object], self: str, folder: str) -> None:
    """A group's file caches count as available, under both versions; a group is told apart by its folder."""
    write(group, files, self)
    machine = report.measure()

    assert machine.memory_available == 3 * GIB
    assert machine.group == str((group / folder).stat().st_ino)


def test_the_tightest_group_around_counts(group: Path) -> None:
    """A service's own group and those around it: the least that is left; the smallest limit at any load."""
    write(
        group,
        {
            "system.slice/memory.max": 8 * GIB,
            "system.slice/memory.current": 7 * GIB,
            "system.slice/cpu.max": "100000 100000",
            "system.slice/it.service/memory.max": 4 * GIB,
            "system.slice/it.service/memory.current": GIB,
            "system.slice/it.service/cpu.max": "400000 100000",
        },
        "0::/system.slice/it.service\n",
    )
    machine = report.measure()

    assert (machine.cores, machine.memory_available, machine.memory_limit) == (1.0, GIB, 4 * GIB)
    write(group, {"system.slice/memory.current": 4 * GIB}, "0::/system.slice/it.service\n")
    later = report.measure()
    assert (later.memory_available, later.memory_limit, later.group) == (3 * GIB, 4 * GIB, machine.group)


@pytest.mark.parametrize(
    ("quota", "limit", "used"),
    [
        ("{}/cpu.max", "{}/memory.max", "{}/memory.current"),
        ("cpu/{}/cpu.cfs_quota_us", "memory/{}/memory.limit_in_bytes", "memory/{}/memory.usage_in_bytes"),
    ],
)
def test_groups_in_one_of_the_same_limits_share_it(group: Path, quota: str, limit: str, used: str) -> None:
    """As the containers of a pod: the limits are those of the group around them, and count once."""
    found = []
    for child in ("pod/a", "pod/b"):
        for folder, taken in (("pod", GIB), (child, GIB // 2)):
            files = {quota: "200000 100000", limit: 4 * GIB, used: taken}
            if quota.startswith("cpu/"):
                files |= {quota: 200000, "cpu/{}/cpu.cfs_period_us": 100000}
            write(group, {name.format(folder): content for name, content in files.items()})
        write(group, {}, f"4:memory:/{child}\n3:cpu:/{child}\n0::/{child}\n")
        found.append(report.measure())

    assert report.cores_of([a_report(**msgspec.structs.asdict(each)) for each in found])[1] == 2.0
    assert {(each.cores, each.memory_limit, each.memory_available) for each in found} == {(2.0, 4 * GIB, 3 * GIB)}
    assert [each.group for each in found] == [str((group / limit.format("pod")).parent.stat().st_ino)] * 2


@pytest.mark.parametrize(
    "self", ["0::/../elsewhere\n", "0::\n", "nonsense", "0::/not/here\n", "1:name=systemd:/\n0::/\n"]
)
def test_a_group_seen_from_inside_is_the_root(group: Path, self: str) -> None:
    """Where the path of a group leads nowhere, as in a container, the root is the group."""
    write(group, {"memory.max": 4 * GIB, "memory.current": GIB}, self)

    assert report.measure().memory_limit == 4 * GIB


def test_this_machine_can_be_measured() -> None:
    """On the machine at hand there are cores and memory, and it has one name."""
    machine = report.measure()

    assert machine.cores > 0
    assert 0 < machine.memory_available <= machine.memory_total
    assert machine.host
    assert machine.host == report.measure().host


def raises(*_: Any, **__: Any) -> Any:
    raise RuntimeError("psutil is broken")


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("virtual_memory", raises),
        ("virtual_memory", lambda: SimpleNamespace(available=0, total=16 * GIB)),
        ("virtual_memory", lambda: SimpleNamespace(available=0, total=0)),
        ("virtual_memory", lambda: SimpleNamespace(available=-GIB, total=16 * GIB)),
        ("virtual_memory", lambda: SimpleNamespace(available=32 * GIB, total=16 * GIB)),
        ("virtual_memory", lambda: SimpleNamespace(available=None, total=None)),
        ("getloadavg", raises),
        ("getloadavg", lambda: (-1.0, 0.0, 0.0)),
        ("getloadavg", lambda: (math.nan, 0.0, 0.0)),
        ("cpu_percent", raises),
        ("cpu_percent", lambda interval: -5.0),
        ("cpu_percent", lambda interval: math.nan),
    ],
)
def test_lies_keep_the_last_sound_measurement(
    group: Path, name: str, lie: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """psutil that raises, or says 0 or nonsense, changes nothing; that is logged once, and ends again."""
    meter = report.Meter()
    before = meter.measure()
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(psutil, name, lie)
        during = [meter.measure() for _ in range(3)]
        assumed = report.measure()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * GIB, total=16 * GIB))

    assert [machine.memory_available for machine in during] == [before.memory_available] * 3 == [10 * GIB] * 3
    assert [machine.cores for machine in during] == [8.0] * 3
    assert (assumed.cores, assumed.memory_available) == (1.0, 256 * 2**20)
    assert len([record for record in caplog.records if "cannot be measured" in record.message]) == 2
    assert meter.measure().memory_available == 2 * GIB


def test_a_lie_about_the_machine_around_a_group(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes nothing either, though the group bounds what a worker has."""
    write(group, {"memory.max": 2 * GIB, "memory.current": GIB})
    meter = report.Meter()
    before = meter.measure()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**62, total=16 * GIB))

    assert before.memory_limit == 2 * GIB
    assert meter.measure().machine_available == before.machine_available == 10 * GIB


def a_report(**changes: Any) -> report.Report:
    values: dict[str, Any] = {"worker": "w@h", "host": "h", "pid": 1, "cores": 1.5, "slots": 3, "at": 100_000}
    return report.Report(**(values | {"memory_available": 1, "memory_total": 2} | changes))


def test_a_report_travels() -> None:
    """A report survives the wire, and one of an older release that says less can be read."""
    said = a_report(queues=("a",), dead=(7,), children={12: 34}, nodes=("n",), code=("abc",), skew=-0.5, prefetch=2)
    old = msgspec.msgpack.encode(
        {"worker": "w", "host": "h", "pid": 1, "cores": 1, "memory_available": 1, "memory_total": 1, "slots": 1}
    )

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=report.Report) == said
    found = msgspec.msgpack.decode(old, type=report.Report)
    assert (found.queues, found.holds, found.concurrency_by, found.lane_memory) == ((), {}, "", 0)
    assert (found.cpu_group, found.machine_cores, report.read([old], now=0, ttl=1.0)) == ("", 0.0, (found,))


def test_reports_that_cannot_be_do_not_count() -> None:
    """Of several reports those count that can be read, are sound, and are no older than their worker allows."""
    wrong = [
        a_report(at=89_999),
        a_report(at=97_999, ttl=2.0),
        a_report(at=0),
        a_report(slots=0),
        a_report(slots=-1),
        a_report(cores=0.0),
        a_report(cores=-2.0),
        a_report(cores=math.inf),
        a_report(cores=math.nan),
        a_report(machine_cores=-1.0),
        a_report(machine_cores=math.nan),
        a_report(memory_total=0, memory_available=0),
        a_report(memory_available=-1),
        a_report(memory_available=3),
        a_report(cpu=math.nan),
    ]
    right = [a_report(), a_report(worker="other", at=90_000), a_report(at=70_000, ttl=30.0)]
    right += [a_report(memory_limit=2, memory_available=0)]
    raws = [msgspec.msgpack.encode(each) for each in [*wrong, *right]]

    unreadable = [b"\xc1", b"", b"\x81\xa6worker\xa1\xff", msgspec.msgpack.encode({"worker": 1})]

    found = report.read([*unreadable, *raws], now=100_000, ttl=10.0)

    assert list(found) == right


def test_the_memory_of_processes() -> None:
    """Each process's own memory; of one that has ended nothing is said."""
    code = "print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found = report.memory_of([os.getpid(), child.pid])
    finally:
        child.communicate(b"\n")

    assert found.keys() == {os.getpid(), child.pid}
    assert all(rss > 2**20 for rss in found.values())
    assert report.memory_of([child.pid]) == {}


@pytest.mark.parametrize("rss", [ValueError("?"), 0, -1, 10**18, None])
def test_nonsense_about_a_process_is_left_out(monkeypatch: pytest.MonkeyPatch, rss: object) -> None:
    """Whatever is said of one process, or fails with it, the worker reports what it knows of the others."""
    mine, asked = os.getpid(), psutil.Process

    def process(pid: int) -> object:
        if pid == mine:
            return asked(pid)
        if isinstance(rss, Exception):
            raise rss
        return SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=rss))

    monkeypatch.setattr(psutil, "Process", process)

    assert report.memory_of([mine, 1]).keys() == {mine}
