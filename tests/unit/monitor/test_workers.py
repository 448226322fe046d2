"""What workers share is told once."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import pytest

from egregore_dist.cli import probe
from egregore_dist.ledger import Ledger
from egregore_dist.monitor.workers import Machine, machines
from egregore_dist.resources.report import Report
from tests.unit.monitor.tables import first_row
from tests.unit.monitor.test_escaping import page

GB = 2**30


def worker(name: str, group: str, *, total: int, at: float = 1.0, **said: Any) -> probe.Worker:
    """A worker whose control group may take so many GB."""
    memory = {"memory_available": total * GB // 2, "memory_total": total * GB, "memory_limit": total * GB}
    report = Report(worker=name, host="boot-1", group=group, pid=1, **{"cores": 1.0, "slots": 4, **memory, **said})
    return probe.Worker(report=report, reported=at, age=0.1)


def seen(monkeypatch: pytest.MonkeyPatch, *workers: probe.Worker) -> list[Machine]:
    """The machines of these workers."""
    monkeypatch.setattr(probe, "workers", lambda ledger: list(workers))
    return machines(cast(Ledger, None))


@pytest.mark.parametrize("last", ["a", "b"])
def test_containers_of_one_machine_have_memory_of_their_own(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each control group is told of by itself, whichever of its workers has reported last."""
    first = worker("a@pod1", "7", total=2, at=3.0 if last == "a" else 1.0, lane_memory=GB // 4)
    second = worker("b@pod2", "9", total=32, at=2.0, cores=8.0, lane_memory=5 * GB)
    third = worker("c@pod2", "9", total=32, cores=8.0, lane_memory=GB)

    one, other = seen(monkeypatch, first, second, third)

    assert (one.name, one.cores, one.memory_total, one.memory_reserved) == ("pod1", 1.0, 2 * GB, GB)
    assert (other.name, other.cores, other.memory_total, other.memory_reserved) == ("pod2", 8.0, 32 * GB, 24 * GB)


def test_a_machine_is_called_by_its_workers_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands after the @ is the host; where nothing does, the machine is called what it calls itself."""
    (named,) = seen(monkeypatch, worker("a@east", "", total=1), worker("b@east", "", total=1))
    (bare,) = seen(monkeypatch, worker("a", "", total=1))

    assert (named.name, bare.name) == ("east", "boot-1")


def test_what_all_workers_of_a_machine_say_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why their numbers are what they are; and of each what it alone says."""
    said = {"prefetch_why": "as many as it runs", "concurrency_by": "tuner"}
    first = worker("a@east", "", total=1, concurrency_why="2 cores", **said)
    second = worker("b@east", "", total=1, concurrency_why="room for 1", **said)

    (machine,) = seen(monkeypatch, first, second)

    assert machine.reasons == [
        ("Concurrency", "2 cores", ("a@east",)),
        ("Concurrency", "room for 1", ("b@east",)),
        ("Prefetch", "as many as it runs", ("a@east", "b@east")),
    ]


def test_what_the_page_says_of_a_machine_and_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores, how much of the memory that is planned with is reserved, prefetch and why, and how old that is."""
    said: dict[str, Any] = {"cores": 2.5, "lane_memory": GB, "prefetch": 6, "prefetch_why": "each takes 3 s"}

    found = seen(monkeypatch, replace(worker("a@east", "", total=8, **said), age=7.0))
    html = page("workers.html", machines=found, lanes={})

    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert facts["Cores"] == "2.5"
    meter, _, reserved = facts["Reserved for lanes"].partition("</meter> ")
    assert 'high="0.7" optimum="0" value="0.500"' in meter
    assert reserved == "4.3 GB, of 6.0 GB that are planned with (70 %)"
    assert facts["Prefetch"] == "each takes 3 s"
    row = first_row(html)
    assert (row["Worker"], row["Prefetch"], row["Last report"]) == ("a@east prefork", "6", "7 s ago")
    labels = re.findall(r'<td[^>]* data-label="(.*?)"', html)
    assert labels == [name for name in row if name not in ("Worker", "Actions")]
