"""What a process writes down for its worker, and what the worker reads."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egregore_dist.engine import board
from egregore_dist.engine.board import NEVER, NOBODY, Board, Note, Reader, Rest, Where
from tests.support.waiting import until

WHERE = ("run", "0.0-1", 2, "worker@host/7/lane.0")


def read(path: Path) -> Note:
    """What a board says, where it says something."""
    note = Reader(path).read()
    assert note is not None
    return note


def test_a_branch_and_its_node(tmp_path: Path) -> None:
    """A reader sees where a lane is, its branch, the node and both of the times when it has to stop."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    mine.serve(60.0, loop=False)
    since = mine.begin(5, 2)
    mine.call("nöde", 3, 1, 4, 10.0)

    note = read(path)
    assert note.where == Where(*WHERE)
    call = note.call
    assert (note.branch, note.since, call.attempt, call.calls, call.retries) == (5, since, 3, 1, 4)
    assert (note.node, note.loop, note.asked) == ("nöde", False, NEVER)
    assert call.timeout == pytest.approx(10.0)
    assert call.called < call.stop_at < note.stop_at < call.called + 61


def test_a_lane_and_its_width(tmp_path: Path) -> None:
    """A reader sees which lane it is, and how many branches it may run at a time, once it has come to its block."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    assert (read(path).where.lane, read(path).where.width) == ("lane", 1)
    mine.serve(60.0, loop=True, width=500)

    assert read(path).where == Where(*WHERE, 500)
    mine.come(*WHERE)
    assert read(path).where.width == 1


def test_what_has_ended_is_not_shown(tmp_path: Path) -> None:
    """After a node with a timeout there is none; after a branch nobody; after a lane nothing."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    mine.begin(5, 1)
    mine.call("node", 1, 1, 0, 10.0)
    mine.called()
    assert (read(path).branch, read(path).call.stop_at) == (5, NEVER)
    mine.rest()
    assert read(path).branch == NOBODY
    mine.leave()
    assert Reader(path).read() is None


def test_where_a_process_calls_no_node(tmp_path: Path) -> None:
    """Away from blocks, at one, or while it loads code: each time another rest; not in a branch, nor on a loop."""
    path = tmp_path / "1"
    mine = Board(path)
    reader = Reader(path)
    assert reader.rests() == Rest("away")
    mine.come(*WHERE)
    assert reader.rests() == Rest("block", 1)
    mine.serve(None, loop=False)
    assert reader.rests() == Rest("block", 2)
    mine.wait()
    assert reader.rests() == Rest("block", 2, waits=1)
    mine.begin(5, 1)
    assert reader.rests() is None
    mine.load(5, 1, "node")
    assert reader.rests() == Rest("code", 4, waits=1)
    mine.loaded()
    assert reader.rests() is None
    mine.load(5, 1, "next")
    # An interrupt came before it had said that this is over.
    mine.call("next", 1, 1, 0, None)
    assert reader.rests() is None
    mine.load(5, 1, "last")
    mine.rest()
    assert reader.rests() == Rest("block", 7, waits=1)
    mine.serve(None, loop=True)
    assert reader.rests() is None
    mine.leave()
    assert reader.rests() == Rest("away", 9, waits=1)


@pytest.mark.parametrize("loop", [False, True])
def test_whose_code_is_loaded(tmp_path: Path, loop: bool) -> None:
    """The branch that comes to its node, and the node; on an event loop it is nobody's turn after that."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    mine.serve(None, loop=loop)
    if not loop:
        mine.begin(4, 1)
        mine.call("before", 1, 1, 0, None)
        mine.begin(5, 3)
    mine.load(5, 3, "imports")
    note = read(path)
    assert (note.branch, note.call.attempt, note.node, note.loop) == (5, 3, "imports", loop)
    assert (note.call.calls, note.call.stop_at) == (0, NEVER)
    mine.loaded()
    assert read(path).branch == (NOBODY if loop else 5)


def test_a_board_for_which_there_is_no_room(tmp_path: Path) -> None:
    """It is an error, also where a part of it finds room."""
    script = """
import resource, sys
from pathlib import Path
from egregore_dist.engine.board import Board
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Board(Path(sys.argv[1]))
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "1")], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout.strip() == os.strerror(errno.EFBIG)


def test_the_first_request_to_stop_counts(tmp_path: Path) -> None:
    """A branch that is asked again and again was asked when it was asked first; the next one was not."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    since = mine.begin(5, 1)
    mine.ask(since)
    first = read(path).asked
    mine.ask(since)
    assert read(path).asked == first < NEVER
    mine.begin(6, 1)
    mine.call("node", 1, 1, 0, None)
    assert (read(path).branch, read(path).asked) == (6, NEVER)


def watched(path: Path) -> list[int]:
    """The branches whose calls are watched."""
    return [call.branch for call in read(path).watched]


def test_every_watched_call_stays_in_sight(tmp_path: Path) -> None:
    """While calls go on, neither others on their loop nor each other hide them; they are overdue in time."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    mine.serve(None, loop=True)
    for branch in (7, 8, 9):
        mine.watch(str(branch), branch, 2, f"late{branch}".encode(), 1, 3, 1.0, 2.5)
    mine.turn(10, 1, b"other", 1, 0, 1.0, NEVER)
    assert (read(path).branch, read(path).node) == (10, "other")
    mine.rest()
    assert mine.is_overdue
    assert watched(path) == [7, 8, 9]
    call = read(path).watched[1]
    assert (call.attempt, call.node, call.calls, call.retries, call.timeout) == (2, "late8", 1, 3, 1.5)
    mine.end(object())
    assert watched(path) == [7, 8, 9]
    mine.end("7")
    assert watched(path) == [8, 9]
    mine.end("9")
    mine.end("8")
    assert watched(path) == []
    mine.watch("11", 11, 1, b"in time", 1, 0, time.monotonic(), time.monotonic() + 60)
    assert watched(path) == [11]
    assert not mine.is_overdue


@pytest.mark.parametrize("how", ["come", "stop", "leave"])
def test_a_lane_does_not_leave_watched_calls_to_the_next(tmp_path: Path, how: str) -> None:
    """What is shown of a lane at one block is not shown of it at another."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    mine.watch("1", 1, 1, b"late", 1, 0, 1.0, 2.0)
    {"come": lambda: mine.come(*WHERE), "stop": mine.stop, "leave": mine.leave}[how]()
    if how == "leave":
        mine.come(*WHERE)
    assert watched(path) == []
    mine.end("1")
    assert watched(path) == []


def test_watched_calls_without_end_are_shown_in_part(tmp_path: Path) -> None:
    """Those that there is no room for are shown when others have ended; names are cut, and nothing is shown in part."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    for branch in range(1000):
        mine.watch(branch, branch, 1, b"n" * 1000, 1, 0, 1.0, 2.0)
    shown = read(path).watched
    assert 50 < len(shown) < 1000
    assert [(call.branch, len(call.node)) for call in shown] == [(branch, 512) for branch in range(len(shown))]
    for branch in range(len(shown)):
        mine.end(branch)
    assert watched(path)[0] == len(shown)


def test_calls_that_may_have_to_be_stopped_are_shown_first(tmp_path: Path) -> None:
    """Where there is no room for all, those whose timeouts are over soonest."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come(*WHERE)
    for branch in range(200):
        mine.watch(branch, branch, 1, b"n" * 500, 1, 0, 1.0, NEVER if branch < 199 else 2.0)
    assert watched(path)[:2] == [199, 0]


def test_ids_without_end_are_left_out(tmp_path: Path) -> None:
    """What does not fit is not shown at all, rather than in part."""
    path = tmp_path / "1"
    mine = Board(path)
    mine.come("r" * 5000, *WHERE[1:])
    mine.begin(1, 1)
    assert Reader(path).read() is None
    mine.come(*WHERE)
    assert read(path).where == Where(*WHERE)


WRITER = """
import sys
from pathlib import Path
from egregore_dist.engine.board import Board

mine = Board(Path(sys.argv[1]))
while True:
    for number in range(1000):
        mine.come("r" * number, str(number), number, str(number))
        mine.begin(number, number)
        mine.call(str(number), number, number, number, None)
"""


def test_a_reader_never_sees_half(tmp_path: Path) -> None:
    """However quickly a process writes, what is read belongs together; also after it was killed in the middle."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice, path = random.Random(seed), tmp_path / "1"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) as writer:
            until(lambda: path.exists() and path.stat().st_size == board._SIZE, what="a board")
            reader, seen = Reader(path), 0
            stop_at = time.monotonic() + dice.uniform(0.02, 0.1)
            while time.monotonic() < stop_at or not seen:
                note = reader.read()
                seen += note is not None and _is_whole(note)
            writer.kill()
        note = reader.read()
        assert note is None or _is_whole(note)
        reader.close()
        path.unlink()


def _is_whole(note: Note) -> bool:
    number = note.where.track
    assert note.where == Where("r" * number, str(number), number, str(number))
    if note.branch != NOBODY:
        assert (note.branch, note.node) in ((number, ""), (number, str(number)))
    return True
