"""A run is accepted once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from egregore_dist import errors
from egregore_dist.ledger import Accepted, Ledger, Work
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import Play, numbers


def test_a_run_is_accepted_once(ledger: Ledger) -> None:
    """The same id again is answered with what the run is that has it, and changes nothing."""
    first = Work("first", b"spec", b"functions")

    assert ledger.submit("order-42", first, code={"d": b"code"}, input=b"one", queue="q", digest="one").new
    again = ledger.submit("order-42", Work("second", b"", b""), code={}, input=b"two", queue="q2", digest="two")
    assert (again.new, again.workflow, again.digest, again.state) == (False, "first", "one", "pending")
    assert ledger.work("order-42") == replace(first, created=ledger.work("order-42").created)
    assert ledger.input("order-42", ROOT) == b"one"
    assert ledger.code("order-42", "d") == b"code"
    assert [run.id for run in ledger.runs()] == ["order-42"]


def test_one_of_many_submissions_is_accepted(ledger: Ledger) -> None:
    """Clients that use one id at the same time for different inputs: one run is accepted, and all hear which."""

    def submitted(digest: str) -> Accepted:
        return ledger.submit("shared", Work("w", b"", b""), code={}, input=digest.encode(), queue="q", digest=digest)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(submitted, "abcdefgh"))

    (winner,) = [digest for digest, answer in zip("abcdefgh", answers, strict=True) if answer.new]
    assert {answer.digest for answer in answers} == {winner}
    assert ledger.input("shared", ROOT) == winner.encode()


def test_a_run_of_an_earlier_release_has_no_digest(play: Play) -> None:
    """It was submitted without one: then nobody can say that its input is another one."""
    again = play.ledger.submit(play.run, Work("flow", b"", b""), code={}, input=b"", queue="q", digest="some")

    assert (again.new, again.digest) == (False, "")


def test_a_run_that_is_not_new_may_wait_for_its_first_lane(play: Play) -> None:
    """Whoever submits it again publishes its message, in case the first one to submit it saw a time-out."""

    def again() -> tuple[bool, bool]:
        accepted = play.ledger.submit(play.run, Work("w", b"", b""), code={}, input=b"", queue="q")
        return accepted.new, accepted.waits

    assert again() == (False, True)
    play.serve(ROOT, play.lane())
    assert again() == (False, False)


def test_a_run_is_pending_until_it_is_served(play: Play) -> None:
    """A run runs from its first lease on, by the server's clock."""
    before = play.ledger.run(play.run)
    served = play.serve(ROOT, play.lane())
    after = play.ledger.run(play.run)

    assert (before.state, before.started) == ("pending", None)
    assert numbers(served) == [0]
    assert after.state == "running"
    assert after.started is not None
    assert before.created <= after.started <= play.now() / 1000


def test_the_newest_run_is_listed_first(ledger: Ledger) -> None:
    """Runs are listed from the newest on."""
    plays = [Play.submit(ledger) for _ in range(3)]
    for age, play in enumerate(plays):
        ledger.redis.zadd(ledger.keys.runs, {play.run: 1000 - age})

    assert [run.id for run in ledger.runs()] == [play.run for play in plays]
    assert [run.id for run in ledger.runs(limit=1, offset=1)] == [plays[1].run]


def test_a_run_that_is_not_there_is_named(ledger: Ledger) -> None:
    """Reading, cancelling or retrying a run that does not exist says which."""
    with pytest.raises(errors.RunNotFound, match="nowhere"):
        ledger.run("nowhere")
    with pytest.raises(errors.RunNotFound, match="nowhere"):
        ledger.cancel("nowhere")
    with pytest.raises(errors.RunNotFound, match="nowhere"):
        ledger.retry("nowhere")
    with pytest.raises(errors.RunNotFound, match="nowhere"):
        ledger.work("nowhere")
    with pytest.raises(errors.RunNotFound, match="nowhere"):
        ledger.input("nowhere", ROOT)


def test_a_lane_that_comes_to_a_run_learns_all_it_needs(play: Play) -> None:
    """Entering a block answers with its record, its first lease, the run's work and the server's time."""
    entered = play.ledger.enter(play.run, ROOT, 0, play.lane(), work=True)

    assert entered is not None
    assert entered.record.id == ROOT
    assert entered.record.queues == ("q",)
    assert numbers(entered.served) == [0]
    assert entered.work is not None
    assert entered.work == Work("flow", b"spec", b"functions", created=entered.work.created)
    assert abs(entered.now - play.now()) < 5000


def test_a_lane_that_knows_the_work_of_a_run_does_not_read_it(play: Play) -> None:
    """Only what was submitted at another time, under the same id, is read: it is another run."""
    created = play.ledger.work(play.run).created

    known = play.ledger.enter(play.run, ROOT, 0, play.lane(), work=True, known=created)
    other = play.ledger.enter(play.run, ROOT, 0, play.lane(), work=True, known=created - 1)

    assert known is not None
    assert known.work is None
    assert other is not None
    assert other.work == play.ledger.work(play.run)


def test_entering_what_is_not_there_finds_nothing(ledger: Ledger) -> None:
    """A message about a run that is gone is answered with None and writes nothing."""
    keys = set(ledger.redis.scan_iter(match=f"{ledger.keys.prefix}*"))

    assert ledger.enter("nowhere", ROOT, 0, "w/1/x", work=True) is None
    assert set(ledger.redis.scan_iter(match=f"{ledger.keys.prefix}*")) == keys


def test_the_server_may_forget_the_scripts(play: Play) -> None:
    """After the server lost its script cache, calls and pipelines send the script again."""
    play.ledger.redis.script_flush()
    entered = play.ledger.enter(play.run, ROOT, 0, play.lane(), work=False)
    play.ledger.redis.script_flush()

    assert entered is not None
    assert numbers(entered.served) == [0]
    assert play.ledger.cancel(play.run) == "cancelled"
