"""One fault test: a server and worker nodes of its own, what was submitted, and the checker at the end."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from egregore_dist import LocalCluster, Run, RunFailed, errors
from egregore_dist.ledger import ENDED, Ledger
from tests.support import history, work
from tests.support.containers import DockerContainer
from tests.support.history import Control, Execution, History, Left, Log, Seen
from tests.support.lengths import LONG
from tests.support.nodes import MARK, Nodes, ProcessContainer, ProcessNode, marked
from tests.support.waiting import let_pass, until

T = TypeVar("T")

# A worker is dead after three seconds, so that a busy machine does not make it so; with a sweep, about four.
QUICK = {"report_interval": "0.5", "report_ttl": "3", "sweep_interval": "0.25"}
TTL = float(QUICK["report_ttl"])
# A worker at rest stops within seconds. What it leaves behind ends with it, or never.
STOPS_WITHIN = 10.0
# A worker that has not heard of the end of a lane gives its slot and its message back within half a minute.
_UNHEARD = 45.0


def notice_soon(patch: pytest.MonkeyPatch, **settings: str) -> None:
    """Have the workers that are started from now on notice within seconds who has died.

    Args:
        settings: ``EGREGORE_*`` by lower-case field name, beside or instead of those of `QUICK`.
    """
    for name, value in {**QUICK, **settings}.items():
        patch.setenv(f"EGREGORE_{name.upper()}", value)


class Trial:
    """A cluster for one test; a context manager that checks I1 to I10 at its end.

    Args:
        workers: nodes to begin with.
        concurrency: lanes of each.
        seed: of the test's own randomness.
        settings: ``EGREGORE_*`` by lower-case field name, beside `QUICK`.
        looks_at_runs: whether the checker looks at runs at the end, or the test has done so before they expired.
        settle: seconds within which every run must have ended once the test is over.
        tcp: whether the server also listens on a port, for nodes on other hosts.

    Attributes:
        cluster: the server, as what this process submits to.
        workers: the nodes.
        ledger: for looking.
        rng: chooses the faults.
        notes: what only the test can know: `History` fields for the checker.
        failed: whether the test has failed already, so that nothing is waited for.
        forgotten: answered writes that the server was seen to have forgotten: what was told or executed before may say
            nothing of what the ledger has.
        stops_in_order: whether its nodes are stopped in good order first, and what outlives that is found.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        concurrency: int = 1,
        seed: object = 0,
        settings: dict[str, str] | None = None,
        looks_at_runs: bool = True,
        settle: float = 40.0,
        tcp: bool = False,
    ) -> None:
        self.rng = random.Random(str(seed))
        self.concurrency = concurrency
        self.notes = History()
        self.failed = False
        self.forgotten = 0
        # It takes seconds, and is the same in every test: one in eight does so, others with every seed.
        self.stops_in_order = LONG or random.Random(f"{seed} stop").random() < 1 / 8
        self.folder = Path(tempfile.mkdtemp(prefix="egdtest-"))
        self._file = self.folder / "executions"
        self._log = Log(self._file)
        self._settle = settle
        self._tcp = tcp
        self._looks_at_runs = looks_at_runs
        self._wanted = workers
        self._mark = uuid.uuid4().hex
        self._settings = settings or {}
        self._patch = pytest.MonkeyPatch()
        self._kills = 0
        self._named = 0
        self._around = ExitStack()
        self.nodes: list[ProcessContainer] = []

    def __enter__(self) -> Self:
        notice_soon(self._patch, **self._settings)
        self._patch.setenv(MARK, self._mark)
        self._patch.setenv(work.FILE, str(self._file))
        self._patch.setenv(work.EPOCH, str(time.time() - time.monotonic()))
        self.cluster = LocalCluster(workers=0, concurrency=self.concurrency, tcp=self._tcp)
        self.cluster.__enter__()
        self.ledger = Ledger(self.cluster.url, prefix=self.cluster.settings.prefix)
        try:
            for _ in range(self._wanted):
                self.add(wait=False)
            for node in self.nodes:
                node.ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.failed = self.failed or error is not None
        try:
            if not self.failed:
                self._come_to_rest()
            found = self.history()
            if self.stops_in_order and not self.failed:
                found.remaining += self._outliving()
        finally:
            self._stop()
        found.remaining += self._remaining()
        void = history.OF_WHAT_WAS_TOLD if self.forgotten else frozenset[str]()
        broken = [it for it in history.check(found) if it.invariant not in void]
        if self.failed or broken:
            for node in self.nodes:
                print(f"--- {node.name}, {node.status}\n{node.logs()[-3000:]}")
        if self.failed:
            print("--- the checker found, where runs may not have ended:", *broken[:10], sep="\n")
        else:
            assert not broken, history.told(broken)
            shutil.rmtree(self.folder, ignore_errors=True)

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Keep something up until the nodes have ended, such as the wire between them and the server."""
        return self._around.enter_context(context)

    # Nodes

    @property
    def workers(self) -> Nodes:
        """The nodes, as pytest-celery's cluster."""
        return Nodes(*(ProcessNode(node) for node in self.nodes))

    def add(
        self,
        *,
        before: Sequence[str] = (),
        hooks: Sequence[str] = (),
        env: dict[str, str] | None = None,
        concurrency: int | None = None,
        queues: Sequence[str] = (),
        wait: bool = True,
        contained: bool = False,
        tuned: bool = False,
    ) -> ProcessContainer:
        """Start one more node; see `ProcessContainer`.

        Args:
            contained: as a container of the worker's image.
            tuned: without a number of lanes by hand.
        """
        self._named += 1
        options = [] if tuned else ["--concurrency", str(concurrency or self.concurrency)]
        options += ["--loglevel", "INFO"]
        if queues:
            options += ["--queues", ",".join(queues)]
        process = {} if contained else {"before": before, "hooks": hooks}
        node = (DockerContainer if contained else ProcessContainer)(
            f"n{self._named}",
            env={**self.cluster.worker_environment(), "TMPDIR": str(self.folder), **(env or {})},
            ledger=self.ledger,
            log=self.folder / f"n{self._named}.log",
            options=options,
            **process,
        )
        self.nodes.append(node)
        if wait:
            node.ready()
        return node

    def kill(self, node: ProcessContainer) -> float:
        """Kill a node; returns when, in milliseconds of the test's clock."""
        at = work.now()
        node.kill()
        self.count_kill()
        return at

    def count_kill(self) -> None:
        """A node was killed: the messages that it held stay with it."""
        self._kills += 1

    # Runs

    def submit(self, flow: Any, data: Any, id: str | None = None) -> Run:
        """Submit a run; from now on it must end."""
        run: Run = flow.submit(data, id=id)
        self.accepted(run.id)
        return run

    def accepted(self, run: str) -> None:
        """A run was accepted by somebody else's submit."""
        self.notes.accepted.add(run)

    def result(self, run: Run, timeout: float = 60.0) -> Any:
        """The value of a run that must end well; what was told is held against the ledger.

        Raises:
            RunFailed: it did not.
        """
        found = self.outcome(run, timeout)
        if isinstance(found, RunFailed):
            raise found
        return found

    def failure(self, run: Run, timeout: float = 60.0) -> RunFailed:
        """How a run has failed that must fail."""
        found = self.outcome(run, timeout)
        assert isinstance(found, RunFailed), f"run {run.id} ended well, with {found!r}"
        return found

    def outcome(self, run: Run, timeout: float = 60.0) -> Any:
        """The run's value, or its `RunFailed` as a value, where either may come."""
        try:
            value = run.result(timeout=timeout, progress=False)
        except errors.RunLost as error:
            self.notes.lost.add(run.id)
            return error
        except RunFailed as error:
            state = "cancelled" if isinstance(error, errors.RunCancelled) else "failed"
            self.notes.seen.append(Seen(run.id, state))
            return error
        self.notes.seen.append(Seen(run.id, "succeeded", value))
        return value

    def run(self, flow: Any, data: Any, timeout: float = 60.0) -> Any:
        """Submit, and `result`: raises what the run failed with."""
        return self.result(self.submit(flow, data), timeout)

    def serves(self, step: Any, within: float) -> float:
        """Seconds until a run of one node has ended, which must come before ``within``."""
        began = time.monotonic()
        run = self.submit(step, None)
        until(lambda: run.status == "succeeded", seconds=within, what=f"a run of {step.name}")
        return time.monotonic() - began

    # Looking

    def executions(self, node: str | None = None) -> list[Execution]:
        """What the nodes wrote down so far, by start."""
        found = history.read_executions(self._file)
        return sorted((it for it in found if node in (None, it.node)), key=lambda it: it.start)

    def new_executions(self) -> list[Execution]:
        """What has begun or ended since the last time."""
        return self._log.new()

    def wait_for(self, count: int = 1, *, node: str | None = None, pid: int | None = None, seconds: float = 30) -> None:
        """Wait until so many executions of a node have begun; ``pid``: in this worker's process group."""

        def there() -> bool:
            return len([it for it in self.executions(node) if pid is None or _group(it.pid) == pid]) >= count

        until(there, seconds=seconds, what=f"{count} executions of {node or 'any node'}")

    def history(self) -> History:
        """All that is known now."""
        notes = self.notes
        if self._looks_at_runs:
            notes.runs = history.read_runs(self.ledger, notes.accepted)
            notes.executions = self.executions()
        notes.died = [died for node in self.nodes if (died := node.died) is not None]
        notes.left = replace(self._left(), keys=tuple(history.strays(self.ledger, notes.runs)))
        return notes

    def control(self, control: Control) -> None:
        """Have the checker look at control runs."""
        self.notes.control = control

    def _left(self) -> Left:
        return history.read_left(self.ledger, may_hold=self._kills * self.concurrency * 2)

    def _come_to_rest(self) -> None:
        # What does not end is for the checker to say.
        def ended() -> bool:
            records = {record.id: record.state for record in self.ledger.runs(limit=1_000_000)}
            return all(records.get(run, "gone") in {*ENDED, "gone"} for run in self.notes.accepted)

        try:
            until(ended, seconds=self._settle, what="the end of every run")
            until(self._is_empty, seconds=_UNHEARD, what="the end of every message")
            # A chord's last lane may be about to publish the callback, which then finds nothing to do. Until it has, it
            # holds its own message; only where some that were killed hold theirs for ever, that is not seen.
            let_pass(0.5 if self._kills else 0.1)
            until(self._is_empty, seconds=_UNHEARD, what="the end of every message")
            until(self._is_quiet, seconds=10, what="the end of every execution")
        except AssertionError as error:
            print(error)

    def _is_empty(self) -> bool:
        left = self._left()
        return not left.queued and left.unacked <= left.may_hold and not left.agenda

    def _is_quiet(self) -> bool:
        living = {int(it.name) for it in Path("/proc").iterdir() if it.name.isdigit()}
        return all(it.end is not None or it.pid not in living for it in self.executions())

    def _outliving(self) -> list[str]:
        # Nodes that live are asked to stop, before anything is killed: who ends in good order leaves no process behind.
        asked = [node for node in self.nodes if isinstance(node, ProcessContainer) and node.is_at_work]
        for node in asked:
            node.kill("SIGTERM")
        limit = time.monotonic() + STOPS_WITHIN
        left: dict[int, str] = {}
        while asked and time.monotonic() < limit:
            # One that does not stop is killed, with its pool: there is nothing to see.
            groups = {node.pid for node in asked if node.status == "exited"}
            left = {pid: command for pid, command in marked(self._mark).items() if _session(pid) in groups}
            if len(groups) == len(asked) and not left:
                return []
            let_pass(0.05)
        return [f"{pid} {command}, after its worker stopped in good order" for pid, command in left.items()]

    def _stop(self) -> None:
        for node in self.nodes:
            node.teardown()
        self._around.close()
        self.ledger.close()
        self.cluster.__exit__(None, None, None)
        self._patch.undo()

    def _remaining(self) -> list[str]:
        # Processes of a killed group are gone once they are reaped, which is not ours to do.
        limit = time.monotonic() + 5
        while (found := marked(self._mark)) and time.monotonic() < limit:
            time.sleep(0.05)
        return [f"{pid} {command}" for pid, command in found.items()]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
