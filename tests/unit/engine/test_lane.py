"""What a lane tells its turn, and when it stops what it has on threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from egregore_dist import Context, errors
from egregore_dist.engine import publish
from egregore_dist.engine.batch import Batch
from egregore_dist.engine.board import Board
from egregore_dist.engine.execute import Job
from egregore_dist.engine.interpret import Done, Value
from egregore_dist.engine.interrupt import Interrupter
from egregore_dist.engine.lane import Lane, Next
from egregore_dist.engine.place import NotLoaded, Place
from egregore_dist.engine.raiser import Raiser
from egregore_dist.engine.runtime import Callee, Runtime
from egregore_dist.errors import BrokerUnavailable
from egregore_dist.ledger import LEAVE, UNTIMED, Commit, Lease, Message, Served
from egregore_dist.wire import codec, failure
from egregore_dist.workflow import spec
from egregore_dist.workflow.binding import Parameters


class FakeTurn:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.over = False

    def came(self) -> None:
        """Noted."""
        self.told.append("came")

    def extend(self, held: int, of: int) -> None:
        """Noted."""
        self.told.append(f"extend {held} of {of}")

    def is_over(self) -> bool:
        """As it was set."""
        return self.over


class FakePlace:
    """A block whose branches each call one function. ``left``: seconds to its deadline, asked anew each time."""

    def __init__(
        self, fn: Callable[..., Any], left: Callable[[], float | None] = lambda: None, *, holds: bool = True
    ) -> None:
        self.left = left
        self._holds = holds
        self.record = SimpleNamespace(id="b", name="b")
        self.track, self.created = 0, 1
        self.observers: dict[int, Any] = {}
        self._fn = fn

    def holds(self, branch: int, token: str) -> bool:
        """Where not, the ledger has heard of an end, or leased it to another lane."""
        return self._holds

    def times(self, lease: Lease, since: float) -> tuple[int, int]:
        """Nobody asks for them."""
        return UNTIMED

    def execute(self, lease: Lease) -> Generator[Job, Value, Done]:
        """One call."""

        def context(attempt: int) -> Context:
            return Context(run="r", workflow="w", block="b", branch="x", node="it", attempt=attempt)

        node = spec.NodeSpec(name="it", function=0)
        value = Value(codec.encode(1, where="test"))
        value = yield Job(node, Callee(self._fn, Parameters.of(self._fn)), value, context, 1, 10_000)
        return Done(value)


class FakeSequence(FakePlace):
    """A block whose branches call a function, and then come to one that cannot be loaded."""

    def execute(self, lease: Lease) -> Generator[Job, Value, Done]:
        """One call, and none."""
        yield from super().execute(lease)
        raise NotLoaded("second", errors.CodeError("module 'm' is refused"))


@pytest.fixture
def turn() -> FakeTurn:
    """The turn of `lane`."""
    return FakeTurn()


@pytest.fixture
def lane(turn: FakeTurn) -> Lane:
    """A lane in a process without a worker."""
    raiser = Raiser()
    logbook = SimpleNamespace(worker="", waits=False)
    runtime = SimpleNamespace(ledger=None, app=None, board=Board(), interrupter=raiser, raiser=raiser, logbook=logbook)
    lane = Lane(cast(Runtime, runtime), "r", worker="w", id="1")
    lane._turn = cast(Any, turn)
    return lane


def executed(lane: Lane, place: FakePlace, how: str) -> Commit | None:
    """Execute a branch: how it ended, or None where it was stopped."""
    where, lease = cast(Place, place), Lease(0, 1)
    if how == "wide":
        return asyncio.run(lane._aexecute(where, lease, time.monotonic()))
    found = lane._execute(where, lease, cast(Batch, SimpleNamespace(share=lambda: None)))
    assert found is None or isinstance(found, Commit)
    return found


def is_ok(end: Commit | None) -> bool:
    """Whether a branch has a value."""
    return end is not None and end.kind == "ok"


@pytest.mark.parametrize("how", ["narrow", "wide"])
def test_what_cannot_be_loaded_is_named(lane: Lane, how: str) -> None:
    """Where the code of a later node cannot be loaded, the failure is of that node, and not of the one before."""
    found = executed(lane, FakeSequence(lambda data: data), how)

    assert found is not None
    told = failure.decode(found.payload)
    assert (told.node, told.type, told.message) == ("second", "egregore_dist.errors.CodeError", "module 'm' is refused")


@pytest.mark.parametrize("how", ["narrow", "wide"])
def test_coming_ends_with_the_first_call(lane: Lane, turn: FakeTurn, how: str) -> None:
    """A lane has come when it calls its first node: what it read until then counts as coming."""
    told: list[list[str]] = []

    assert is_ok(executed(lane, FakePlace(lambda value: told.append(list(turn.told))), how))

    assert told == [["came"]]


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("how", ["narrow", "wide"])
def test_what_comes_late_is_begun_only_where_it_is_still_the_lane_s(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, how: str, holds: bool
) -> None:
    """A lane that was cut off before it could read the input asks before it calls the node."""
    monkeypatch.setattr("egregore_dist.engine.lane._LATE", -1.0)
    calls: list[int] = []
    place = FakePlace(calls.append, holds=holds)
    end = executed(lane, place, how)

    assert is_ok(end) if holds else end is None
    assert calls == ([1] if holds else [])


def test_a_deadline_stops_threads_without_the_ledger(lane: Lane) -> None:
    """What was called before the deadline is stopped at it, though the ledger does not say so."""
    times = iter([60.0])
    place = FakePlace(_spin, lambda: next(times, 0.0))

    assert executed(lane, place, "wide") is None


def _spin(value: int) -> None:
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        value += 1


@pytest.fixture
def wanted(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many branches the lane has asked for, each time."""
    asked: list[int] = []

    def commit(*_: object, want: int, **__: object) -> Served:
        asked.append(want)
        return Served("open", (), None, 0, ())

    monkeypatch.setattr(lane, "_commit", commit)
    return asked


@pytest.mark.parametrize("held", [0, 3])
def test_a_lane_of_many_that_holds_some_may_stay(lane: Lane, turn: FakeTurn, wanted: list[int], held: int) -> None:
    """Where it should have left, and waits for branches that go on, its turn is told, and may be extended."""
    turn.over = True
    lane._commit_wide(cast(Place, FakePlace(_spin)), held, 5, [])

    assert wanted == [LEAVE]
    assert turn.told == (["extend 3 of 5"] if held else [])


def test_nothing_is_begun_beside_a_node_over_its_timeout(lane: Lane, wanted: list[int], tmp_path: Path) -> None:
    """While a process may have to be killed for one of its branches it takes no others, which would begin again."""
    place, board = cast(Place, FakePlace(_spin)), Board(tmp_path / "1")
    lane._runtime.board = board
    lane._commit_wide(place, 1, 1, [])
    board.watch("late", 1, 1, b"late", 1, 0, 1.0, 2.0)
    lane._commit_wide(place, 1, 1, [])
    board.end("late")
    lane._commit_wide(place, 1, 1, [])

    assert wanted == [0, LEAVE, 0]


@pytest.mark.parametrize("answers", [True, False])
def test_others_are_called_to_what_this_lane_has_given_back(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """What it has not begun is there before they come; they are called where the ledger does not answer, too."""
    done: list[str] = []

    def share(*, calls: bool) -> None:
        assert not calls
        done.append("gave back")
        if not answers:
            raise BrokerUnavailable("the ledger is away")

    monkeypatch.setattr(lane, "_at", ("block", SimpleNamespace(share=share)))
    monkeypatch.setattr(lane, "_publish_block", lambda *_: done.append("called"))
    with nullcontext() if answers else pytest.raises(BrokerUnavailable):
        lane._call_others(cast(Any, SimpleNamespace(id="block")), cast(Place, FakePlace(_spin)))

    assert done == ["gave back", "called"]


def test_a_lane_that_comes_after_those_it_called_leaves_them_the_rest(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it came late to the block that it has opened, it gives back all but one before it begins."""
    done: list[object] = []

    def commit(*_: object, releases: list[int], **__: object) -> Served:
        done.append(releases)
        return Served("ok", (), None, 0, ())

    def execute(_place: Place, lease: Lease, _batch: Batch) -> Commit:
        done.append(lease.branch)
        return Commit(lease.branch, "ok", b"")

    place = FakePlace(_spin)
    place.record = SimpleNamespace(id="b", name="b", n=3, on_error="cancel")
    place.shape, place.limited = SimpleNamespace(batched=False, parts=()), False
    monkeypatch.setattr(lane, "_known_lease", lambda _: 1)
    monkeypatch.setattr(lane, "_commit", commit)
    monkeypatch.setattr(lane, "_execute", execute)
    monkeypatch.setattr(lane, "_publish_block", lambda *_: done.append("called"))
    lane._call_others(cast(Any, SimpleNamespace(id="b")), cast(Place, place))
    lane._serve_narrow(cast(Place, place), [Lease(0), Lease(1), Lease(2)])

    assert done == ["called", [1, 2], 0, []]


@pytest.mark.parametrize(
    ("calls", "asked"), [(True, ["lane b", "collect b", "lane c"]), (False, ["collect b", "lane c"])]
)
def test_nobody_is_called_twice_to_what_was_given_back(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, calls: bool, asked: list[str]
) -> None:
    """Where others are called to the block anyway, the ledger's call of one more for it is left out."""
    wanted = [Message("lane", "b", 0, "q"), Message("collect", "b", 0, "q"), Message("lane", "c", 0, "q")]
    lane._ledger = cast(Any, SimpleNamespace(serve=lambda *_, **__: Served("open", (), None, 0, tuple(wanted))))
    published: list[str] = []
    monkeypatch.setattr(
        publish, "messages", lambda _app, _run, found: published.extend(f"{each.kind} {each.block}" for each in found)
    )
    lane._commit(cast(Place, FakePlace(_spin)), want=1, held=1, commits=[], releases=[1], calls=calls)

    assert published == asked


@pytest.mark.parametrize(("limit", "track", "batches"), [(None, 0, True), ("limit", 0, False), ("limit", 1, True)])
def test_branches_with_a_limit_are_leased_one_by_one(lane: Lane, limit: str | None, track: int, batches: bool) -> None:
    """Also where it has so many keys that they are leased without a place: each waits as a block of its own."""
    lane._runtime.interrupter = Interrupter()
    shape = SimpleNamespace(batched=True, parts=(SimpleNamespace(kind=SimpleNamespace(limit=limit)),))

    assert lane._batches(cast(Any, shape), track) is batches


@pytest.mark.parametrize(
    ("late", "resync", "most", "is_kept"),
    [(0, False, 3, True), (1, False, 3, False), (0, True, 3, False), (0, False, 1, False)],
)
def test_values_of_a_block_that_ended_here_are_at_hand(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, late: int, resync: bool, most: int, is_kept: bool
) -> None:
    """Who goes on after a small block does not ask for what the same lane has committed; where it did not, it asks.

    Nor are they kept where the ledger has forgotten some, or where they are many bytes.
    """
    monkeypatch.setattr("egregore_dist.engine.lane._KEPT", most)
    answers = iter([Served("open", (Lease(2),), None, late, (), resync), Served("ok", (), None, 0, ())])
    place = FakePlace(_spin)
    place.record = SimpleNamespace(id="b", name="b", n=3, on_error="cancel")
    place.shape, place.limited = SimpleNamespace(batched=False, parts=()), False
    monkeypatch.setattr(lane, "_known_lease", lambda _: 1)
    monkeypatch.setattr(lane, "_commit", lambda *_, **__: next(answers))
    monkeypatch.setattr(
        lane, "_execute", lambda _place, lease, _batch: Commit(lease.branch, "ok", b"%d" % lease.branch)
    )
    lane._serve_narrow(cast(Place, place), [Lease(0), Lease(1)])
    kept = lane._inputs.take("b")

    assert kept == ((place.record, {0: b"0", 1: b"1", 2: b"2"}) if is_kept else None)
    assert lane._inputs.take("b") is None


def test_a_branch_to_go_on_with_is_of_the_same_run(lane: Lane) -> None:
    """Where another run has its id by now, nothing of that is executed."""
    asked: list[object] = []

    def look(*about: object) -> NoReturn:
        asked.append(about)
        raise errors.RunNotFound("no run 'r'")

    lane._ledger, lane._created = cast(Any, SimpleNamespace(look=look)), 7
    lane._load = cast(Any, SimpleNamespace(created=7))

    assert lane._come_to(Next("0", 0, Lease(0))) is None
    assert asked == [("r", "0", 7)]
