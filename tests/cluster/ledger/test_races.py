"""F22 on the ledger alone: cancel, the last commit, the deadline, retry and pause, in any order and all at once."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent import futures
from threading import Barrier

import pytest

from egregore_dist.ledger import ENDED, Ledger
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import Play, bad, ok
from tests.support.lengths import LONG

SEED = int(os.environ.get("EGREGORE_TEST_SEED") or random.SystemRandom().randrange(10**6))
ORDERS, CHUNKS = (1000, 10) if LONG else (150, 3)
AT_ONCE = 100 if LONG else 30


class Race:
    """A run whose last branch is about to end, and what may happen to it."""

    def __init__(self, ledger: Ledger, rng: random.Random) -> None:
        self.play = Play.submit(ledger)
        self.rng = rng
        self.nested = rng.random() < 0.5
        self.lane = self.play.lane()
        self.outer = self.play.block(2, timeout=3600.0, on_error=rng.choice(["cancel", "collect"]))
        self.block = self.outer
        if self.nested:
            self.play.serve(self.outer, self.lane)
            self.block = self.play.nest(self.outer, 0, self.lane, 2, timeout=3600.0)
        self.come()

    def come(self) -> None:
        """The lane leases what it can get, and commits all of it but one."""
        served = self.play.serve(self.block, self.lane)
        while served.state == "open" and served.leases and self.play.record(self.block).done < 1:
            served = self.play.serve(self.block, self.lane, ok(served.leases[0].branch))

    def commit(self) -> None:
        """The lane ends what it holds, well, and goes on with what that makes possible."""
        self._settle(ok)

    def failing(self) -> None:
        """The same, badly."""
        self._settle(bad)

    def _settle(self, how: Callable[..., list[object]]) -> None:
        play = self.play
        served = play.serve(self.block, self.lane, how(*range(2)))  # type: ignore[arg-type]
        while served.resumed is not None:
            served = play.serve(served.resumed.block, self.lane, ok(served.resumed.lease.branch))
        for block in (self.outer, ROOT):
            found = play.serve(block, self.lane)
            if found.leases:
                play.serve(block, self.lane, ok(*[lease.branch for lease in found.leases]))

    def deadline(self) -> None:
        """A janitor finds that a block's deadline has come."""
        block = self.rng.choice([self.block, self.outer])
        # Not by `make_due`, which wants an entry: the block may have ended.
        key = self.play.ledger.keys.block(self.play.run, "b", block)
        if self.play.ledger.redis.hget(key, "state") == b"open":
            self.play.pass_deadline(block)
        self.play.ledger.redis.zadd(self.play.ledger.keys.agenda, {f"{self.play.run} deadline {block}": 1}, xx=True)
        self.play.ledger.sweep(self.play.run, "deadline", block, workers={})

    def sweep(self) -> None:
        """A janitor looks after a block while every worker is dead."""
        block = self.rng.choice([self.block, self.outer, ROOT])
        self.play.ledger.redis.zadd(self.play.ledger.keys.agenda, {f"{self.play.run} hint {block}": 1}, xx=True)
        self.play.ledger.sweep(self.play.run, "hint", block, workers={})

    def cancel(self) -> None:
        """The user cancels: the run has ended then, this way or another."""
        assert self.play.ledger.cancel(self.play.run) in ENDED

    def pause(self) -> None:
        """The user pauses."""
        assert self.play.ledger.pause(self.play.run) in {"paused", *ENDED}

    def resume(self) -> None:
        """The user resumes."""
        self.play.ledger.resume(self.play.run)

    def retry(self) -> None:
        """The user retries."""
        self.play.ledger.retry(self.play.run)

    ACTIONS = (commit, failing, deadline, sweep, cancel, cancel, pause, resume, retry, retry)

    def state(self) -> str:
        """The run's state, seen to be the same to all who can tell it; only a retry may have ended an end."""
        play = self.play
        record, value = play.ledger.outcome(play.run)
        ended = record.state in ENDED
        history = [
            fields["state"].decode() if fields["event"] == b"run.ended" else "going"
            for _, fields in play.ledger.events(play.run, "0", 0.001)
            if fields["event"] in (b"run.ended", b"run.retried")
        ]
        assert history[::2] == [state for state in history if state != "going"], history
        assert history[1::2] == ["going"] * len(history[1::2]), history
        assert "succeeded" not in history[:-1], history
        assert (history[-1] if history else "going") == (record.state if ended else "going")
        assert (value is not None) == (record.state == "succeeded")
        assert play.ends() == int(ended) == int(play.ledger.wait(play.run, 0.001) if ended else 0)
        assert (record.ended is not None) == ended
        still_open = [block.id for block in play.ledger.blocks(play.run) if block.state == "open"]
        assert bool(still_open) != ended
        assert {block for _, block in play.agenda()} == set(still_open)
        return record.state

    def end(self) -> None:
        """The run can be brought to a good end from wherever it is, unless it has one."""
        play = self.play
        play.ledger.resume(play.run)
        play.ledger.retry(play.run)
        for _ in range(20):
            if play.state in ENDED:
                break
            for block in sorted((block.id for block in play.ledger.blocks(play.run)), reverse=True):
                if play.record(block).state == "open":
                    play.sweep("hint", block, alive=())
                    self._drain(block)
        assert self.state() == "succeeded"

    def _drain(self, block: str) -> None:
        lane = self.play.lane()
        served = self.play.serve(block, lane)
        while served.leases:
            served = self.play.serve(block, lane, ok(*[lease.branch for lease in served.leases]))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_order(ledger: Ledger, chunk: int) -> None:
    """After each of them all readers agree, and an end stays as it is unless the run is retried."""
    print(f"EGREGORE_TEST_SEED={SEED}")
    for number in range(chunk, ORDERS, CHUNKS):
        rng = random.Random(f"{SEED}/{number}")
        race = Race(ledger, rng)
        before = race.state()
        actions = [rng.choice(Race.ACTIONS) for _ in range(rng.randint(3, 8))]
        for action in actions:
            action(race)
            after = race.state()
            changes = action is Race.retry and before in ("failed", "cancelled")
            assert after == before or changes or before not in ENDED, (number, [one.__name__ for one in actions])
            before = after
        if rng.random() < 0.2:
            race.end()


def test_all_at_once(ledger: Ledger) -> None:
    """On connections of their own at the same moment, exactly one of them ends the run, and everybody agrees which."""
    print(f"EGREGORE_TEST_SEED={SEED}")
    acts = [Race.commit, Race.cancel, Race.deadline, Race.pause, Race.retry, Race.resume]
    with futures.ThreadPoolExecutor(len(acts) + 1) as threads:
        for number in range(AT_ONCE):
            race = Race(ledger, random.Random(f"{SEED}/at once/{number}"))
            order = race.rng.sample(acts, len(acts))
            barrier = Barrier(len(acts) + 1)

            def act(action: Callable[[Race], None], race: Race = race, barrier: Barrier = barrier) -> None:
                barrier.wait(10)
                action(race)

            done = [threads.submit(act, action) for action in order]
            barrier.wait(10)
            for one in done:
                one.result(30)
            race.state()
            race.cancel()
            assert race.state() in ENDED
