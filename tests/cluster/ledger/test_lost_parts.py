"""A run of which the server has lost part, as where it evicts keys: it ends, or is lost as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial

import pytest
import redis
from hypothesis import HealthCheck, given, settings, strategies

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.ledger import ENDED, LEAVE, Ledger, Message, Waiting, Work, logs
from egregore_dist.ledger.keys import ROOT
from egregore_dist.settings import Settings
from egregore_dist.worker.sweeper import Sweeper
from egregore_dist.workflow.limits import Rule
from tests.cluster.ledger.play import WORKER, Play, bad, limited, numbers, ok, track
from tests.cluster.ledger.profiles import TIMEOUT
from tests.support import janitors
from tests.support.lengths import LONG

BUCKET, PLACES = "calls", Rule(concurrent=2)
BRANCHES = 8
# More than any run needs; a round stands for some seconds.
ROUNDS = 25


class Lively:
    """A run in the middle of everything: blocks that are open, nested and ended, limits, marks, waits and lines."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.play = play = Play.submit(ledger)
        self.created = ledger.work(play.run).created
        tracks = [track(5, of=range(5), lanes=5), limited(3, BUCKET, PLACES, of=(5, 6, 7), lanes=3)]
        self.block = play.block(BRANCHES, on_error="collect", timeout=600.0, tracks=tracks)
        # What lanes hold: block, track, branches by token.
        self.held: dict[str, tuple[str, int, list[int]]] = {}
        first, second, third, opener, closer = (play.lane() for _ in range(5))
        play.serve(self.block, first, want=1)
        play.serve(self.block, first, ok(0), want=1)
        self.held[first] = (self.block, 0, [1])
        play.serve(self.block, opener, want=1)
        self.inner = play.nest(self.block, 2, opener, 3)
        play.serve(self.inner, opener, want=1)
        play.serve(self.inner, opener, ok(0), want=1)
        self.held[opener] = (self.inner, 0, [1])
        play.serve(self.block, closer, want=1)
        ended = play.nest(self.block, 3, closer, 1)
        play.serve(ended, closer)
        assert play.serve(ended, closer, ok(0)).resumed is not None
        play.serve(self.block, closer, held=0, releases=[3], want=LEAVE)
        play.serve(self.block, second, track=1)
        play.serve(self.block, second, bad(5), track=1)
        self.held[second] = (self.block, 1, [6])
        play.serve(self.block, third, track=1)
        self.held[third] = (self.block, 1, [7])
        waiting = Waiting(block=self.block, branch=1, token=first, seconds=30.0, call=2, most=3, node="n")
        assert ledger.backoff(play.run, [waiting]) == 1
        self.log(1)

    def log(self, number: int) -> None:
        """Write a line, as a worker does that does not know yet that the run is gone."""
        write = partial(logs.write, self.ledger, self.play.run, "writer", number, [b"line"])
        write(said=1, most=10000, created=self.created)

    def go_on(self) -> None:
        """The lanes that hold branches commit them, and leave."""
        while self.held:
            token, (block, number, branches) = self.held.popitem()
            call = partial(self.ledger.serve, self.play.run, block, number, token, want=LEAVE, created=self.created)
            self.as_a_lane(lambda call=call, branches=branches: call(commits=ok(*branches)))

    def come(self, message: Message) -> None:
        """A lane comes that was asked for, and serves all that it is given."""
        token = self.play.lane()

        def lane() -> None:
            block, number = message.block, message.track
            enter = partial(self.ledger.enter, self.play.run, block, number, token, work=True)
            entered = enter(created=message.created)
            served = None if entered is None else entered.served
            while served is not None:
                if served.resumed is not None:
                    block, number, leases = served.resumed.block, served.resumed.track, [served.resumed.lease.branch]
                elif not (leases := numbers(served)):
                    break
                serve = partial(self.ledger.serve, self.play.run, block, number, token, created=self.created)
                served = serve(commits=ok(*leases))

        self.as_a_lane(lane)

    def as_a_lane(self, act: Callable[[], object]) -> None:
        """Do it; what the ledger does not have, or cannot do, ends a lane."""
        try:
            act()
        except (errors.RunNotFound, redis.exceptions.ResponseError):
            pass

    def is_over(self) -> bool:
        """Whether who waits for it has an answer."""
        try:
            return self.ledger.run(self.play.run).state in ENDED
        except errors.RunNotFound:
            return True

    def staying(self) -> list[str]:
        """Its keys that do not expire."""
        return [key for key in self.play.written() if self.ledger.redis.ttl(key) == -1]


def janitor(ledger: Ledger) -> Sweeper:
    """A janitor that has been up for long."""
    settings = Settings(broker_url="redis://127.0.0.1:1", queue="q")
    return janitors.settle(Sweeper(ledger, apps.make_app(settings), settings, WORKER), ledger, time.monotonic())


def rounds(run: Lively, sweeper: Sweeper, published: list[tuple[str, Message]]) -> None:
    """Janitors and lanes act until nothing is left to do."""
    redis = run.ledger.redis
    for _ in range(ROUNDS):
        for kind, block in run.play.agenda():
            redis.zadd(run.ledger.keys.agenda, {f"{run.play.run} {kind} {block}": 1 if kind != "deadline" else 10**15})
            if redis.exists(run.ledger.keys.block(run.play.run, "b", block)):
                redis.hdel(run.ledger.keys.block(run.play.run, "b", block), "ask_after")
        for bucket in redis.zrange(run.ledger.keys.limits_due, 0, -1):
            redis.zadd(run.ledger.keys.limits_due, {bucket: 1})
        # Nor are lanes waited for that were called by whoever does not publish here.
        called = run.ledger.keys.limit("c", BUCKET)
        for member in redis.hkeys(called):
            redis.hset(called, member, "1 1")
        sweeper.round()
        asked, published[:] = list(published), []
        for of, message in asked:
            if (message.run or of) == run.play.run:
                run.come(message)
        if run.is_over() and not run.play.agenda():
            return
    raise AssertionError(f"still there: {run.play.agenda()}")


def lose(run: Lively, keys: Collection[str]) -> None:
    run.ledger.redis.delete(*keys)


def assert_over(run: Lively, sweeper: Sweeper, published: list[tuple[str, Message]]) -> None:
    """It has ended or is lost, nothing of it stays, and others have its places."""
    rounds(run, sweeper, published)
    run.log(2)
    assert run.staying() == []
    block = run.ledger.block(run.play.run, run.block)
    if block is not None and block.state == "ok":
        _, values, failures = run.ledger.collected(run.play.run, run.block)
        assert len(values) + len(failures) == BRANCHES

    other = Lively.__new__(Lively)
    other.ledger, other.play = run.ledger, Play.submit(run.ledger)
    other.created = run.ledger.work(other.play.run).created
    other.play.block(2, tracks=[limited(2, BUCKET, PLACES)])
    rounds(other, sweeper, published)
    assert run.ledger.run(other.play.run).state == "succeeded"
    assert run.ledger.redis.zcard(run.ledger.keys.limit("h", BUCKET)) == 0


@pytest.fixture
def quiet(ledger: Ledger, published: list[tuple[str, Message]]) -> list[tuple[str, Message]]:
    """What janitors publish, on a ledger where every lane that nobody plays is gone."""
    ledger.report(WORKER, janitors.report(WORKER), 600.0)
    return published


def test_a_run_of_which_nothing_is_lost_ends_well(ledger: Ledger, quiet: list[tuple[str, Message]]) -> None:
    """What these tests play is what lanes and janitors do."""
    run = Lively(ledger)
    assert_over(run, janitor(ledger), quiet)

    assert ledger.run(run.play.run).state == "succeeded"


@pytest.mark.timeout(TIMEOUT)
def test_a_run_that_lost_any_of_its_keys_is_over(ledger: Ledger, quiet: list[tuple[str, Message]]) -> None:
    """Whichever they are, and whoever comes first: whoever waits has an answer, and nothing of the run stays."""
    sweeper = janitor(ledger)
    run = Lively(ledger)
    parts = sorted(key.removeprefix(ledger.keys.run(run.play.run)) for key in run.play.written())
    assert_over(run, sweeper, quiet)
    fast = settings(
        deadline=None, max_examples=500 if LONG else 60, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )

    @fast
    @given(strategies.data())
    def check(data: strategies.DataObject) -> None:
        # What a failed example has left must not fail the next one.
        ledger.redis.delete(*ledger.redis.keys(f"{ledger.keys.prefix}*"))
        ledger.report(WORKER, janitors.report(WORKER), 600.0)
        run = Lively(ledger)
        few = strategies.sets(strategies.sampled_from(parts), min_size=1, max_size=4)
        gone = data.draw(strategies.one_of(few, few.map(lambda kept: set(parts) - kept)))
        lose(run, [ledger.keys.run(run.play.run) + part for part in gone])
        if data.draw(strategies.booleans()):
            run.go_on()
            run.log(3)
        assert_over(run, sweeper, quiet)

    check()


@pytest.mark.parametrize("kind", ["", ":b:0", ":l:", ":r:", ":blocks"])
def test_what_cannot_end_as_it_should_is_lost(ledger: Ledger, quiet: list[tuple[str, Message]], kind: str) -> None:
    """Without its record, a block's, what lanes hold, values, or its list of blocks a run is lost as a whole."""
    run = Lively(ledger)
    of = run.play.written()
    lose(run, [key for key in of if key.endswith("}" + kind) or (kind[-1:] == ":" and f"}}{kind}" in key)])
    assert_over(run, janitor(ledger), quiet)

    assert run.play.written() == set()
    assert not ledger.redis.zscore(ledger.keys.runs, run.play.run)
    with pytest.raises(errors.RunNotFound):
        ledger.run(run.play.run)


def test_an_id_is_free_again_at_once(ledger: Ledger, quiet: list[tuple[str, Message]]) -> None:
    """What is left of a run that lost its record has no part in the next one that is given its id."""
    run = Lively(ledger)
    lose(run, [ledger.keys.run(run.play.run)])
    accepted = ledger.submit(run.play.run, Work("flow", b"spec", b"f"), code={}, input=b"in", queue="q", digest="d")

    assert accepted.new
    assert ledger.results(run.play.run, run.block) == {}
    assert run.play.record(ROOT).opened is not None
    run.created = accepted.created
    run.held.clear()
    rounds(run, janitor(ledger), quiet)
    assert ledger.run(run.play.run).state == "succeeded"
