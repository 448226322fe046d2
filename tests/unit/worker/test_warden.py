"""When a process that has a lane, and does nothing for it, is ended."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.engine import publish
from egregore_dist.engine.board import NEVER, Board, Reader
from egregore_dist.ledger import Loss, Message
from egregore_dist.worker import heldup, warden
from tests.support.waiting import until

PID = 4711


class World:
    """A warden, its clock, and a process that has not even made a board."""

    def __init__(self, folder: Path, killed: list[int]) -> None:
        self.now = 0.0
        self.busy = {PID}
        self.is_away = False
        self.killed = killed
        self.main = self.whole = 0.0
        self.is_seen = True
        self.is_dead = False
        self.refuses = False
        self.meanwhile: Callable[[], object] = lambda: None
        self.holds: Callable[[list[Any]], list[bool]] = lambda asked: [True for _ in asked]
        self.lost: list[Loss] = []
        self.folder = folder
        ledger: Any = SimpleNamespace(
            now=self._ask,
            held=lambda asked: self.holds(asked),
            lost=lambda *args: self.lost.append(args[-1]) or [],
            sweep=self._sweep,
        )
        app: Any = None
        self.warden = warden.Warden(ledger, app, grace=2.0, folder=folder, busy=lambda: self.busy, report_ttl=10.0)
        self.warden.started(SimpleNamespace(pid=PID))

    def _ask(self) -> int:
        if self.is_away:
            raise errors.BrokerUnavailable("it is away")
        self.meanwhile()
        return 0

    def _sweep(self, *_: object, **__: object) -> list[Message]:
        if self.refuses:
            raise ValueError("it cannot be dealt with")
        return []

    def pass_by(self, seconds: float, step: float = 1.0) -> None:
        """Let so much time pass, with a round each step."""
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.warden.round()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """All of it."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _signal: killed.append(pid))
    made = World(tmp_path, killed)
    monkeypatch.setattr(warden, "monotonic", lambda: made.now)
    monkeypatch.setattr(heldup, "monotonic", lambda: made.now)
    monkeypatch.setattr("egregore_dist.engine.board.monotonic", lambda: made.now)
    monkeypatch.setattr(heldup, "_used", lambda _: heldup._Used(made.main, made.whole) if made.is_seen else None)
    monkeypatch.setattr(warden, "_how_it_ended", lambda _: (-9, "was killed by SIGKILL") if made.is_dead else None)
    return made


@pytest.mark.parametrize(("noted", "told"), [(-9, (-9, "was killed by SIGKILL")), (None, (None, "ended"))])
def test_how_a_process_ended_is_waited_for(tmp_path: Path, noted: int | None, told: tuple[int | None, str]) -> None:
    """Where the pool has just heard of it, it may not have noted how; but nobody waits for long."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    process = SimpleNamespace(_popen=SimpleNamespace(returncode=None))
    Board(tmp_path / "board")
    child = warden._Child(gone.pid, Reader(tmp_path / "board"), process)

    assert warden._how_it_ended(child) is None
    process._popen.returncode = noted
    assert warden._how_it_ended(child) == told


def test_a_process_that_is_held_up_is_ended(world: World) -> None:
    """After half a minute, though it has not come to make a board."""
    world.pass_by(29)
    assert not world.killed
    world.pass_by(3)
    assert world.killed == [PID]


def _sleep(world: World) -> None:
    # The worker's main process was stopped.
    world.pass_by(40, step=40)


def _end_lanes(world: World) -> None:
    world.busy = set()
    world.pass_by(1)
    world.busy = {PID}


@pytest.mark.parametrize("meanwhile", [_sleep, _end_lanes])
def test_silence_is_counted_while_it_is_seen(world: World, meanwhile: Callable[[World], None]) -> None:
    """What was not looked at was no silence, nor was what lay between two lanes."""
    world.pass_by(25)
    meanwhile(world)
    world.pass_by(25)
    assert not world.killed
    world.pass_by(10)
    assert world.killed == [PID]


def test_a_process_may_wait_for_the_ledger(world: World) -> None:
    """While the ledger is away nothing is ended, nor in the moment after; what rests on then is."""
    world.pass_by(18)
    world.is_away = True
    with pytest.raises(errors.BrokerUnavailable):
        world.pass_by(40)
    world.is_away = False
    world.pass_by(29)
    assert not world.killed
    world.pass_by(3)
    assert world.killed == [PID]


def raise_full(*_: object) -> None:
    """As a disk does that has no room for a name."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def at_a_block(world: World) -> Board:
    """The board of the process, whose lane has come to a block."""
    board = Board(world.folder / str(PID))
    board.come("r", "b", 0, "w/1.1")
    return board


def test_a_process_that_is_held_up_at_a_block_is_ended(world: World) -> None:
    """It has branches leased, and has begun none: they are not to blame."""
    at_a_block(world)
    world.pass_by(119)
    assert not world.killed
    world.pass_by(3)
    assert world.killed == [PID]

    world.is_dead = True
    world.pass_by(1)
    assert world.lost == [Loss(verdict="stopped")]


@pytest.mark.parametrize("loop", [False, True], ids=["narrow", "wide"])
def test_a_process_that_never_loads_its_code_is_ended(world: World, loop: bool) -> None:
    """The branch whose node's module does not come to its end is to blame, whichever was executed before it."""
    board = at_a_block(world)
    board.serve(None, loop=loop)
    board.begin(3, 1)
    board.call("before", 1, 1, 0, None)
    if loop:
        board.rest()
    else:
        board.begin(4, 2)
    board.load(4, 2, "imports")
    world.pass_by(119)
    assert not world.killed
    world.pass_by(3)
    assert world.killed == [PID]

    world.is_dead = True
    world.pass_by(1)
    why = "its process was killed: for 120 s it loaded the code of a node, and used no processor time"
    assert world.lost == [Loss(verdict="lost", branch=4, why=why, node="imports")]


@pytest.mark.parametrize(("main", "whole"), [(0.5, 0.5), (0.0, 4.0)], ids=["main", "others"])
def test_a_process_may_import_for_as_long_as_it_likes(world: World, main: float, whole: float) -> None:
    """Where it uses its processor, however little, or others work for it; only what comes after that is counted."""
    at_a_block(world).load(0, 1, "imports")
    for _ in range(10):
        world.pass_by(110)
        world.main += main
        world.whole += whole
    world.pass_by(90)
    assert not world.killed
    world.pass_by(40)
    assert world.killed == [PID]


@pytest.mark.parametrize(
    "step",
    [
        lambda board: board.come("r", "other", 0, "w/1.1"),
        lambda board: board.serve(None, loop=False),
        lambda board: board.begin(0, 1) and board.rest(),
        lambda board: board.load(0, 1, "imports"),
        lambda board: board.load(0, 1, "imports") or board.loaded(),
        lambda board: board.wait(),
        lambda board: board.leave(),
    ],
    ids=["come", "serve", "begin", "load", "loaded", "wait", "leave"],
)
def test_a_process_that_goes_on_is_not_held_up(world: World, step: Callable[[Board], object]) -> None:
    """Each thing that its lane does begins the time anew."""
    board = at_a_block(world)
    world.pass_by(110)
    step(board)
    world.pass_by(25)
    assert not world.killed


@pytest.mark.parametrize(
    "work", [lambda board: board.begin(0, 1), lambda board: board.serve(None, loop=True)], ids=["node", "loop"]
)
def test_a_process_that_executes_may_do_nothing(world: World, work: Callable[[Board], object]) -> None:
    """A node may sleep, and an event loop may wait, for as long as its user likes."""
    work(at_a_block(world))
    world.pass_by(3600)
    assert not world.killed


def test_threads_that_never_rest_are_no_work(world: World) -> None:
    """As one that looks for something twenty times a second."""
    at_a_block(world)
    for _ in range(121):
        world.pass_by(1)
        world.whole += 2e-3
    world.pass_by(2)
    assert world.killed == [PID]


def test_a_process_of_which_nothing_can_be_seen_is_left_alone(world: World) -> None:
    """It may work."""
    world.is_seen = False
    at_a_block(world)
    world.pass_by(3600)
    assert not world.killed


@pytest.mark.parametrize("leaves", [True, False])
def test_a_process_that_could_not_make_its_board_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """The disk was full, for the board or even for its name, and has room again."""
    if leaves:
        (world.folder / str(PID)).write_bytes(b"")
        world.pass_by(40)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", raise_full)
            world.pass_by(1)
        world.pass_by(40)
    assert not world.killed


def test_a_process_that_goes_on_while_the_ledger_is_asked(world: World) -> None:
    """That took long, perhaps: what was so before it may not be so after it."""
    board = at_a_block(world)
    world.pass_by(120)
    world.meanwhile = lambda: board.serve(None, loop=False)
    world.pass_by(1)
    assert not world.killed
    world.meanwhile = lambda: None
    world.pass_by(119)
    assert not world.killed
    world.pass_by(3)
    assert world.killed == [PID]


def test_a_file_that_is_nobodys_board(world: World) -> None:
    """Whatever else is in the folder holds up no round."""
    (world.folder / ".nfs0001").touch()
    world.pass_by(32)
    assert world.killed == [PID]


def test_a_block_that_cannot_be_ended_holds_up_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, once, and the rest of the round is done."""
    at_a_block(world).serve(0.0, loop=True)
    world.refuses = True
    world.pass_by(10)
    assert world.killed == [PID]
    assert [record.action for record in caplog.records if hasattr(record, "action")].count("sweep_failed") == 1


def board_of(pid: int, folder: Path) -> Board:
    """The board of a process that is at a branch of a block."""
    board = Board(folder / str(pid))
    board.come("r", "b", 0, "w/1.1")
    board.serve(None, loop=False)
    board.begin(0, 1)
    return board


def test_a_broker_that_does_not_answer_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead process held is asked for beside: the worker goes on to report, and to look after the others."""
    answers, asked = threading.Event(), threading.Event()

    def stuck(*_: object) -> None:
        asked.set()
        answers.wait(20)

    monkeypatch.setattr(publish, "messages", stuck)
    ledger: Any = SimpleNamespace(now=lambda: 0, lost=lambda *_: [Message("lane", "b", 0, "q")])
    app: Any = None
    made = warden.Warden(ledger, app, grace=2.0, folder=tmp_path, busy=tuple, report_ttl=10.0)
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    board_of(process.pid, tmp_path)
    until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), what="its end")

    began = time.monotonic()
    made.round()
    made.bury()

    assert made.widths() == {}
    assert asked.wait(10)
    assert time.monotonic() - began < 10
    answers.set()
    process.wait()


def test_a_process_that_has_died_meanwhile_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends between two rounds, while it is to be told to stop, keeps nobody from giving back what it held."""
    given: list[str] = []
    ledger: Any = SimpleNamespace(
        now=lambda: 0, held=lambda asked: [False for _ in asked], lost=lambda run, *_: given.append(run) or []
    )
    app: Any = None
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(warden, "monotonic", lambda: clock.now)
    made = warden.Warden(ledger, app, grace=20.0, folder=tmp_path, busy=tuple, report_ttl=10.0)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    board_of(process.pid, tmp_path)
    clock.now += 2
    made.round()
    process.communicate(b"\n")
    made.round()

    assert given == ["r"]


def test_a_lane_that_went_on_is_not_taken_for_one_that_is_gone(world: World) -> None:
    """While the ledger was asked it left one track of its block for another: what was said is of the first."""
    board = at_a_block(world)
    board.serve(None, loop=True, width=4)

    def go_on(asked: list[Any]) -> list[bool]:
        board.come("r", "b", 1, "w/1.1")
        board.serve(None, loop=False)
        board.begin(0, 1)
        return [False for _ in asked]

    world.holds = go_on
    world.pass_by(2)
    world.holds = lambda asked: [True for _ in asked]
    for branch in range(1, 10):
        world.pass_by(0.9, step=0.3)
        board.begin(branch, 1)

    assert not world.killed


@pytest.mark.parametrize(("threads", "blamed"), [((), None), ((3,), 3), ((3, 4), None)])
def test_a_process_dies_while_its_loop_waits(world: World, threads: tuple[int, ...], blamed: int | None) -> None:
    """It was at what it called on a thread, where that is one call."""
    board = at_a_block(world)
    board.serve(None, loop=True, width=4)
    for branch in threads:
        board.watch(branch, branch, 1, b"crunch", 1, 0, world.now, NEVER)
    world.pass_by(0.5, step=0.5)
    world.is_dead = True
    world.pass_by(0.5, step=0.5)

    (loss,) = world.lost
    assert (loss.verdict, loss.branch, loss.node) == ("lost", blamed, "crunch" if blamed else "")


def test_a_process_dies_while_one_call_on_its_loop_is_overdue(world: World) -> None:
    """What is being stopped is not for that to blame."""
    board = at_a_block(world)
    board.serve(None, loop=True, width=4)
    board.watch(3, 3, 1, b"slow", 1, 0, world.now, world.now + 0.2)
    world.pass_by(0.5, step=0.5)
    world.is_dead = True
    world.pass_by(0.5, step=0.5)

    (loss,) = world.lost
    assert (loss.verdict, loss.branch, loss.node) == ("lost", None, "")
