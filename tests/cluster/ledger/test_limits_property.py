"""Limits by name under any interleaving of runs, lanes, deaths, edits and lost messages, against a small model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from egregore_dist.ledger import Commit, Ledger, Loss, Message, Presence, Served
from egregore_dist.ledger import limits as records
from egregore_dist.workflow.limits import Rule
from tests.cluster.ledger.play import Play, bad, limited, numbers
from tests.cluster.ledger.profiles import TIMEOUT

STEADY = "steady@here"
BUCKETS = ("calls", "calls/a")
# Much more than any run needs.
ROUNDS = 400


@dataclass
class Lane:
    """A lane, and what it holds of one track of its run's block."""

    token: str
    worker: str
    play: Play
    track: int
    holds: set[int] = field(default_factory=set)


@dataclass
class Job:
    """A run with one block, of which each track has a bucket; and its branches that have ended."""

    play: Play
    block: str
    n: int
    tracks: tuple[str, ...]
    wide: bool
    ended: set[int] = field(default_factory=set)
    state: str = "open"


class Limited(RuleBasedStateMachine):
    """Some runs that share limits."""

    ledger: Ledger  # set by the test

    def __init__(self) -> None:
        super().__init__()
        for key in self.ledger.redis.scan_iter(match=f"{self.ledger.keys.prefix}*", count=1000):
            self.ledger.redis.delete(key)
        self.rule = Rule(concurrent=2)
        self.jobs: dict[str, Job] = {}
        self.lanes: list[Lane] = []
        self.messages: list[tuple[str, Message]] = []
        self.workers = [STEADY, "w1@there", "w2@there"]
        self.numbers = itertools.count(1)

    # The model

    def holders(self, bucket: str) -> list[str]:
        key = self.ledger.keys.limit("h", bucket)
        return [name.decode() for name in cast(list[bytes], self.ledger.redis.zrange(key, 0, -1))]

    def held(self, bucket: str) -> int:
        """Branches whose lanes hold them, and are alive, of blocks that have not ended and of those that have."""
        return sum(
            len(lane.holds)
            for lane in self.lanes
            if self.jobs[lane.play.run].tracks[lane.track] == bucket and lane.holds
        )

    def take(self, run: str, messages: tuple[Message, ...] | list[Message]) -> None:
        self.messages += [(message.run or run, message) for message in messages]

    @invariant()
    def no_more_than_the_places(self) -> None:
        """Every branch that a lane holds has a place."""
        for bucket in BUCKETS:
            assert self.held(bucket) <= len(self.holders(bucket))

    # Moves

    @initialize(concurrent=strategies.integers(1, 4))
    def begin(self, concurrent: int) -> None:
        """The limit."""
        self.rule = Rule(concurrent=concurrent)

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(n=strategies.integers(1, 6), tracks=strategies.integers(1, 2), wide=strategies.booleans())
    def submit(self, n: int, tracks: int, wide: bool) -> None:
        """A run meets its block; the lanes of its chord are published."""
        play = Play.submit(self.ledger)
        tracks = min(tracks, n)
        of = [tuple(range(n))[number::tracks] for number in range(tracks)]
        block = play.block(
            n,
            on_error="collect",
            tracks=[
                limited(len(mine), BUCKETS[number], self.rule, width=4 if wide else 1, of=mine if tracks > 1 else None)
                for number, mine in enumerate(of)
            ],
        )
        self.jobs[play.run] = Job(play, block, n, BUCKETS[:tracks], wide)
        for number in range(tracks):
            self.messages += [(play.run, Message("lane", block, number, "q"))] * 2

    @precondition(lambda self: self.messages)
    @rule(data=strategies.data())
    def deliver(self, data: strategies.DataObject) -> None:
        """A message arrives."""
        run, message = self.messages.pop(data.draw(strategies.integers(0, len(self.messages) - 1)))
        self.arrive(run, message, data.draw(strategies.sampled_from(self.workers)))

    def arrive(self, run: str, message: Message, worker: str) -> None:
        job = self.jobs[run]
        if message.kind != "lane" or message.block != job.block:
            return
        lane = Lane(job.play.lane(worker, next(self.numbers)), worker, job.play, message.track)
        self.lanes.append(lane)
        self.call(lane, [], [])

    @precondition(lambda self: self.messages)
    @rule(data=strategies.data())
    def lose(self, data: strategies.DataObject) -> None:
        """A message is lost."""
        self.messages.pop(data.draw(strategies.integers(0, len(self.messages) - 1)))

    @precondition(lambda self: self.lanes)
    @rule(data=strategies.data(), want=strategies.sampled_from([0, 0, 3, -1]))
    def work(self, data: strategies.DataObject, want: int) -> None:
        """A lane ends some of what it holds, in any way, and asks for more."""
        lane = data.draw(strategies.sampled_from(self.lanes))
        job = self.jobs[lane.play.run]
        commits, releases = [], []
        for branch in sorted(lane.holds):
            kinds = ["ok", "ok", "error", "again", "release", *(["keep"] * 3 if job.wide else [])]
            match data.draw(strategies.sampled_from(kinds)):
                case "ok":
                    commits.append(Commit(branch, "ok", b"\x80"))
                case "error":
                    commits += bad(branch)
                case "again":
                    commits.append(Commit(branch, "again", b"1 calls"))
                case "release":
                    releases.append(branch)
        self.call(lane, commits, releases, want)

    def call(self, lane: Lane, commits: list[Commit], releases: list[int], want: int = 0) -> Served:
        job = self.jobs[lane.play.run]
        bucket = job.tracks[lane.track]
        lane.holds -= {commit.branch for commit in commits} | set(releases)
        served = lane.play.serve(
            job.block, lane.token, commits, track=lane.track, want=want, held=len(lane.holds), releases=releases
        )
        if served.state == "open":
            job.ended |= {commit.branch for commit in commits if commit.kind != "again"}
        else:
            if job.state == "open" and served.state == "ok":
                job.ended |= {commit.branch for commit in commits}
            job.state = served.state
            if lane.holds:
                # It stops what it runs, and says so.
                lane.holds = set()
                return self.call(lane, [], [])
        new = set(numbers(served))
        lane.holds = new if served.resync else lane.holds | new
        if new and not served.resync:
            assert not new & job.ended
            assert len(self.holders(bucket)) <= self.rule.concurrent, "more are leased than there are places"
            if not job.wide:
                assert len(lane.holds) == 1, "a lane holds a place for what it does not run"
        if not lane.holds:
            self.lanes.remove(lane)
        self.take(lane.play.run, served.messages)
        return served

    @precondition(lambda self: self.lanes)
    @rule(data=strategies.data(), by=strategies.sampled_from(["worker", "janitor"]))
    def kill(self, data: strategies.DataObject, by: str) -> None:
        """A process dies, and its worker says so, or a janitor finds it."""
        lane = data.draw(strategies.sampled_from(self.lanes))
        job = self.jobs[lane.play.run]
        self.lanes.remove(lane)
        if by == "worker":
            loss = Loss(verdict="stopped", branch=None)
            self.take(lane.play.run, self.ledger.lost(lane.play.run, job.block, lane.token, loss))
        else:
            self.gone = lane.token
            self.sweep(job, dead=[lane.token.rpartition("/")[0]])
            self.tend_all(dead=[lane.token.rpartition("/")[0]])
        self.learn(job)

    def learn(self, job: Job) -> None:
        record = self.ledger.block(job.play.run, job.block)
        assert record is not None
        job.state = record.state
        job.ended |= set(self.ledger.results(job.play.run, job.block)) | set(
            self.ledger.failures(job.play.run, job.block)
        )

    @precondition(lambda self: any(job.state == "open" for job in self.jobs.values()))
    @rule(data=strategies.data(), what=strategies.sampled_from(["cancel", "pause", "resume"]))
    def tell(self, data: strategies.DataObject, what: str) -> None:
        """Somebody cancels, pauses or resumes a run."""
        job = data.draw(strategies.sampled_from([job for job in self.jobs.values() if job.state == "open"]))
        if what == "cancel":
            self.ledger.cancel(job.play.run)
        elif what == "pause":
            self.ledger.pause(job.play.run)
        else:
            self.take(job.play.run, self.ledger.resume(job.play.run)[1])
        self.learn(job)

    @rule(concurrent=strategies.integers(1, 4))
    def edit(self, concurrent: int) -> None:
        """The limit is changed."""
        self.rule = Rule(concurrent=concurrent)
        for bucket in self.ledger.edit_limit("calls", records.text_of(self.rule, None))[1]:
            self.take("", self.ledger.tend(bucket, "edit").messages)

    @rule()
    def janitor(self) -> None:
        """A janitor makes its round."""
        self.sweep_all()
        self.tend_all()

    def sweep_all(self) -> None:
        for job in self.jobs.values():
            if job.state == "open":
                self.sweep(job)

    def sweep(self, job: Job, dead: tuple[str, ...] | list[str] = ()) -> None:
        if ("hint", job.block) in job.play.agenda():
            alive = {*self.workers}
            self.take(job.play.run, job.play.sweep("hint", job.block, alive=alive, dead=dead))

    def tend_all(self, dead: tuple[str, ...] | list[str] = ()) -> None:
        workers = {worker: Presence(at=10**15) for worker in self.workers}
        for process in dead:
            name, _, pid = process.rpartition("/")
            workers[name] = Presence(at=10**15, dead=(int(pid),))
        for bucket in BUCKETS:
            self.take("", self.ledger.tend(bucket, "janitor", workers=workers).messages)

    def time_goes_by(self) -> None:
        """Tracks that were called too long ago, as if time had gone by."""
        for bucket in BUCKETS:
            key = self.ledger.keys.limit("c", bucket)
            for member in self.ledger.redis.hkeys(key):
                self.ledger.redis.hset(key, member, "1 1")

    def teardown(self) -> None:
        """Whatever happened: with messages and janitors alone, every run ends, and no place is left."""
        for run, job in self.jobs.items():
            if self.ledger.run(run).state == "paused":
                self.take(run, self.ledger.resume(run)[1])
            self.learn(job)
        self.messages = self.messages[::2]
        for number in range(ROUNDS):
            if all(job.state != "open" for job in self.jobs.values()) and not self.lanes:
                break
            for lane in list(self.lanes):
                if lane in self.lanes:
                    self.call(lane, [Commit(branch, "ok", b"\x80") for branch in sorted(lane.holds)], [])
            waiting, self.messages = self.messages, []
            for run, message in waiting:
                self.arrive(run, message, STEADY)
            if number % 10 == 9:
                self.time_goes_by()
                self.janitor()
        self.time_goes_by()
        self.tend_all()
        for job in self.jobs.values():
            assert job.state != "open", f"{sorted(set(range(job.n)) - job.ended)} were forgotten"
        for bucket in BUCKETS:
            assert self.holders(bucket) == []
            assert self.ledger.redis.exists(self.ledger.keys.limit("c", bucket)) == 0
        self.tend_all()
        assert self.ledger.redis.exists(self.ledger.keys.limits_due) == 0
        super().teardown()


@pytest.mark.timeout(TIMEOUT)
def test_any_interleaving_keeps_the_limit(ledger: Ledger, interleavings: settings) -> None:
    """Never more branches have a place than there are, none is forgotten, and no place is left behind."""
    machine = type("Machine", (Limited,), {"ledger": ledger})
    run_state_machine_as_test(machine, settings=interleavings)
