"""What a process records of its executions."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from egregore_dist.resources import profile, recorder, router
from egregore_dist.resources.profile import Profile
from egregore_dist.resources.recorder import Recorder

MIB = 2**20


def record(of: Recorder, function: str, work: Callable[[], object], size: int = 1) -> bool:
    if not of.wants(function):
        work()
        return False
    measure = of.measure(function)
    measure.begin()
    work()
    measure.end(size)
    return True


def burn(seconds: float) -> None:
    limit = time.process_time() + seconds
    while time.process_time() < limit:
        pass


def taken(of: Recorder, function: str = "f") -> Profile:
    return of.take()[function]


def test_time_and_size_are_recorded() -> None:
    """A sleep takes time and no CPU, a computation takes both; sizes are those of the results."""
    recorded = Recorder(lambda: None, alone=True)
    record(recorded, "sleeps", lambda: time.sleep(0.05), 10)
    record(recorded, "burns", lambda: burn(0.05), 1000)

    news = recorded.take()
    assert news["sleeps"].wall.mean >= 0.05
    assert news["sleeps"].cpu.mean < news["sleeps"].wall.mean / 2
    assert news["burns"].cpu.mean >= 0.05
    assert (news["sleeps"].size.mean, news["burns"].size.mean) == (10, 1000)


def test_other_processes_and_threads_count() -> None:
    """What a thread or a process of its own burns is a node's CPU time too."""
    recorded = Recorder(lambda: None, alone=True)
    code = "import time\nlimit = time.process_time() + 0.2\nwhile time.process_time() < limit: pass"
    record(recorded, "f", lambda: subprocess.run([sys.executable, "-c", code], check=True))
    by_process = taken(recorded).cpu.mean

    def in_a_thread() -> None:
        thread = threading.Thread(target=burn, args=(0.1,))
        thread.start()
        thread.join()

    record(recorded, "f", in_a_thread)
    by_thread = taken(recorded).cpu.mean
    assert by_process >= 0.2
    assert by_thread >= 0.1


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/schedstat"), reason="needs Linux's /proc to see the queue")
def test_what_waits_for_a_core_is_told_from_what_waits_for_others() -> None:
    """Beside others on its core a computation takes long, and waits for no others than those; a sleep does."""
    recorded = Recorder(lambda: None, alone=True)
    code = "import time\nlimit = time.monotonic() + 60\nprint(flush=True)\nwhile time.monotonic() < limit: pass"
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        for _ in range(8):
            record(recorded, "burns", lambda: burn(0.02))
            record(recorded, "sleeps", lambda: time.sleep(0.02))
    finally:
        os.sched_setaffinity(0, cores)
        for other in others:
            other.kill()
            other.communicate()

    news = recorded.take()
    burns, sleeps = (profile.of_branches({(name,): 1}, news) for name in ("burns", "sleeps"))
    assert burns is not None
    assert burns.cpu is not None
    assert sleeps is not None
    assert burns.wall >= 2 * burns.cpu
    assert burns.waits <= burns.cpu / 2
    assert sleeps.waits >= 0.019
    assert router.keep_busy(burns, 32) == 1
    assert router.keep_busy(sleeps, 32) == 32


def test_of_what_shares_a_thread_or_is_tiny_no_wait_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its thread is shared nobody knows how long an execution waited; of tiny ones nobody asks."""
    asked: list[int] = []

    def queued() -> float:
        asked.append(1)
        return 0.0

    monkeypatch.setattr(recorder, "_queued", queued)
    recorded = Recorder(lambda: None, alone=True)
    shared = recorded.measure("f", shares_thread=True)
    shared.begin()
    time.sleep(0.006)
    shared.end(1)
    assert recorded.take()["f"].waits.buckets == {}
    assert not asked
    for _ in range(100_000):
        record(recorded, "tiny", lambda: None)
    assert len(asked) < 20


@pytest.mark.parametrize("alone", [True, False])
def test_beside_a_child_no_wait_is_told(alone: bool) -> None:
    """How long a process that was started waited for a core nobody knows; beside others, nor whose it was."""
    recorded = Recorder(lambda: None, alone=alone)

    record(recorded, "f", lambda: subprocess.run([sys.executable, "-c", ""], check=True))

    found = taken(recorded)
    assert found.waits.buckets == {}
    assert bool(found.cpu.buckets) == alone


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc to reset the peak")
def test_the_peak_of_memory_is_recorded() -> None:
    """What was taken and given back again counts, every time; what takes nothing counts next to nothing."""
    recorded = Recorder(lambda: None, alone=True)
    for _ in range(3):
        record(recorded, "large", lambda: len(b"x" * (80 * MIB)))
        record(recorded, "small", lambda: None)

    news = recorded.take()
    assert 80 * MIB <= news["large"].memory.quantile(0.5) <= 110 * MIB
    assert news["small"].memory.quantile(0.95) < 8 * MIB


def test_without_a_peak_what_is_held_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the peak cannot be reset, growth that stays is seen; where nothing can be told, memory is unknown."""
    kept: list[bytearray] = []
    recorded = Recorder(lambda: None, alone=True)
    monkeypatch.setattr(recorder, "_reset_peak", lambda: False)
    if recorder._held() is not None:
        record(recorded, "f", lambda: kept.append(bytearray(os.urandom(MIB) * 30)))
        assert 25 * MIB <= taken(recorded).memory.mean <= 80 * MIB

    monkeypatch.setattr(recorder, "_held", lambda: None)
    record(recorded, "f", lambda: None)
    assert taken(recorded).memory.buckets == {}


def test_beside_others_only_what_can_be_told_is_recorded() -> None:
    """Memory needs the process for itself; on a shared thread CPU time is nobody's."""
    threads = Recorder(lambda: None, alone=False)
    record(threads, "f", lambda: burn(0.02))
    on_a_thread = taken(threads)
    recorded = Recorder(lambda: None, alone=True)
    measure = recorded.measure("g", shares_thread=True)
    measure.begin()
    measure.end(1)
    on_a_loop = taken(recorded, "g")

    # What its thread has used, on a machine that others use too.
    assert on_a_thread.cpu.mean >= 0.01
    assert on_a_thread.memory.buckets == {}
    assert (on_a_loop.cpu.buckets, on_a_loop.memory.buckets) == ({}, {})
    assert on_a_loop.count == 1


def test_of_tiny_executions_a_sample_is_measured() -> None:
    """Most of them cost a look only, and each measured one stands for those before it; long ones are all measured."""
    recorded = Recorder(lambda: None, alone=True)
    measured = sum(record(recorded, "tiny", lambda: None) for _ in range(5000))
    long = [record(recorded, "long", lambda: time.sleep(0.006)) for _ in range(20)]

    news = recorded.take()
    assert measured < 500
    assert news["tiny"].count == pytest.approx(5000, abs=1000)
    assert all(long)
    assert news["long"].count == 20


def test_news_are_told_once() -> None:
    """The first record since the last take calls, the others do not; what was taken is gone."""
    told: list[int] = []
    recorded = Recorder(lambda: told.append(1), alone=True)
    for _ in range(3):
        record(recorded, "f", lambda: None)
    assert (len(told), taken(recorded).count) == (1, 3)
    assert recorded.take() == {}
    record(recorded, "f", lambda: None)
    assert len(told) == 2


def test_what_does_not_end_well_is_not_recorded() -> None:
    """A failed execution says nothing about those that end well, and disturbs none of them."""
    recorded = Recorder(lambda: None, alone=True)
    recorded.measure("f").begin()

    assert recorded.take() == {}
    record(recorded, "f", lambda: None)
    assert taken(recorded).count == 1


def test_a_process_remembers_a_bounded_number_of_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that meets ever new functions forgets the old ones."""
    monkeypatch.setattr(recorder, "_MOST_FUNCTIONS", 10)
    recorded = Recorder(lambda: None, alone=True)
    for number in range(100):
        record(recorded, f"f{number}", lambda: None)

    assert len(recorded._tallies) <= 10


def test_what_an_execution_took_with_calls_that_failed() -> None:
    """A measure adds up the CPU time of its calls, of those that failed too, from which nothing is learned."""
    recorded = Recorder(lambda: None, alone=True)
    measure = recorded.measure("f")
    measure.begin()
    burn(0.05)
    measure.fail()
    measure.fail()
    assert recorded.take() == {}
    measure.begin()
    burn(0.02)
    measure.end(1)

    assert measure.cpu is not None
    assert 0.07 <= measure.cpu < 0.5
    assert measure.memory is not None
    assert recorded.take()["f"].count == 1
    other = recorded.measure("f", shares_thread=True)
    other.begin()
    other.end(1)
    assert (other.cpu, other.memory) == (None, None)
