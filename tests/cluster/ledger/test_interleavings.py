"""Any interleaving of lanes, janitors, deaths, lost replies, deadlines and what users do, against a small model.

``HYPOTHESIS_PROFILE=thorough`` runs many more, and longer, interleavings.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
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

from egregore_dist.ledger import BlockRecord, Commit, Ledger, Loss, Message, Presence, Served, Track, counts
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import ATTEMPTS
from tests.cluster.ledger.play import Play, track
from tests.cluster.ledger.profiles import TIMEOUT

STEADY = "steady@here"
QUEUES = ("q", "gpu")
DEEPEST = 3
MOST_BLOCKS = 25


@dataclass
class Block:
    """What the model knows of one block. A branch is in one of: ended, parked, leased (by token), or waits."""

    id: str
    parent: str | None
    branch: int
    n: int
    limit: int
    on_error: str
    tracks: tuple[Track, ...]
    track_of: dict[int, int]
    has_deadline: bool = False
    state: str = "open"
    ended: dict[int, str] = field(default_factory=dict)
    parked: dict[int, str] = field(default_factory=dict)
    leased: dict[int, str] = field(default_factory=dict)
    after: dict[int, str] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    again: dict[int, str] = field(default_factory=dict)  # of a retried run: waits until there is room for its child
    widths: list[int] = field(default_factory=list)  # of its tracks: less than planned once processes lacked memory
    begun: dict[str, int] = field(default_factory=dict)  # by lane, how many it may run at a time

    def __post_init__(self) -> None:
        self.widths = [track.width for track in self.tracks]

    @property
    def depth(self) -> int:
        return self.id.count(".")

    @property
    def waiting(self) -> set[int]:
        return set(range(self.n)) - set(self.ended) - set(self.parked) - set(self.leased)

    @property
    def slots(self) -> int:
        """What it takes of its limit: a lane runs at most ``width`` of the branches that it holds."""
        held = Counter(self.leased.values())
        return sum(min(count, self.begun[token]) for token, count in held.items()) + len(self.parked)

    def note(self, token: str, number: int) -> None:
        """A lane goes on with what it has begun, also where its track has become narrower since."""
        count = sum(holder == token for holder in self.leased.values())
        self.begun[token] = max(self.widths[number], min(count, self.begun.get(token, 1)))


@dataclass
class Lane:
    """A lane as its process sees itself: what it believes that it holds of one track of one block."""

    token: str
    worker: str
    block: str
    track: int
    holds: set[int] = field(default_factory=set)


def holders(leases: dict[bytes, bytes]) -> dict[int, str]:
    """Who holds each branch, without the counts that a block's leases hold too."""
    return {int(name): holder.decode() for name, holder in leases.items() if not name.startswith(b"@")}


class Interleavings(RuleBasedStateMachine):
    """One run, up to its end and after it."""

    ledger: Ledger  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.ledger.redis.delete(self.ledger.keys.counts_of("flow"))
        self.play = Play.submit(self.ledger)
        # Some tracks have a limit, all of them the same: two places.
        self.limit = f"limit-{self.play.run}"
        root = Block(ROOT, None, 0, 1, 0, "cancel", (track(1, lanes=1),), {0: 0})
        self.blocks = {ROOT: root}
        self.run_state = "pending"
        self.paused = False
        self.lanes: list[Lane] = []
        self.messages: list[Message] = []
        self.workers = [STEADY, "w1@there", "w2@there"]
        self.dead: set[str] = set()
        self.numbers = itertools.count(3)
        self.ends = 0

    # The model: small, and nothing of it shared with the scripts

    @property
    def seen_state(self) -> str:
        return "paused" if self.paused else self.run_state

    def take(self, messages: Iterable[Message]) -> None:
        """Keep what a transition asked for."""
        before = len(self.messages)
        self.messages += messages
        assert not self.paused or len(self.messages) == before, "a paused run asks for nothing"

    def close(self, block: Block, state: str) -> None:
        block.state = state
        for child in block.parked.values():
            self.close(self.blocks[child], "cancelled")

    def end_run(self, state: str) -> None:
        self.run_state = state
        self.paused = False
        self.ends += 1

    def complete(self, block: Block) -> None:
        block.state = "ok"
        if block.parent is None:
            return self.end_run("succeeded")
        parent = self.blocks[block.parent]
        assert parent.parked.pop(block.branch) == block.id
        parent.after[block.branch] = block.id
        parent.lost.pop(block.branch, None)
        return None

    def fail(self, block: Block, state: str) -> None:
        self.close(block, state)
        if block.parent is None:
            return self.end_run("cancelled" if state == "cancelled" else "failed")
        parent = self.blocks[block.parent]
        del parent.parked[block.branch]
        return self.end_branch(parent, block.branch, "error")

    def end_branch(self, block: Block, branch: int, kind: str) -> None:
        block.ended[branch] = kind
        if kind == "error" and block.on_error == "cancel":
            self.fail(block, "error")
        elif len(block.ended) == block.n:
            self.complete(block)

    def lose(self, block: Block, branches: Iterable[int]) -> None:
        """These have cost a process; the last of their attempts they end as lost."""
        for branch in branches:
            block.lost[branch] = block.lost.get(branch, 0) + 1
            if block.lost[branch] >= ATTEMPTS:
                block.ended[branch] = "error"
        if "error" in {kind for branch, kind in block.ended.items() if block.lost.get(branch) == ATTEMPTS} and (
            block.on_error == "cancel"
        ):
            self.fail(block, "error")
        elif len(block.ended) == block.n:
            self.complete(block)

    def expected_commits(self, block: Block, token: str, commits: list[Commit]) -> int:
        """Take the commits that count; how many do not."""
        if block.state != "open":
            return len(commits)
        late = 0
        failed = False
        for commit in commits:
            if block.leased.get(commit.branch) != token:
                late += 1
                continue
            del block.leased[commit.branch]
            block.ended[commit.branch] = commit.kind
            failed = failed or (commit.kind == "error" and block.on_error == "cancel")
        if failed:
            self.fail(block, "error")
        elif late < len(commits) and len(block.ended) == block.n:
            self.complete(block)
        return late

    # What the server has

    def leases(self, block: str) -> dict[int, str]:
        return holders(cast(dict[bytes, bytes], self.ledger.redis.hgetall(self.key("l", block))))

    def learn_leases(self, block: Block, token: str, served: Served | None) -> None:
        """Take over what the server leased to a lane, which must have been free to lease; the answer must say so."""
        found = {branch for branch, holder in self.leases(block.id).items() if holder == token}
        before = {branch for branch, holder in block.leased.items() if holder == token}
        new = found - before
        assert before <= found
        assert new <= block.waiting - set(block.again), f"leased {new}, but only {block.waiting} waited"
        assert not (new and self.paused), "a branch of a paused run is leased"
        if new and any(block.lost.get(branch, 0) > 1 for branch in found):
            assert len(found) == 1, "a branch that was lost twice is leased with others"
        for branch in new:
            block.leased[branch] = token
        if served is None:
            return
        told = {lease.branch for lease in served.leases}
        assert len(served.leases) == len(told)
        assert told == (found if served.resync else new)
        for lease in served.leases:
            assert lease.attempt == block.lost.get(lease.branch, 0) + 1
            assert lease.after == block.after.get(lease.branch, "")

    def learn_parked(self, block: Block) -> None:
        """Take over which children of a retried run the server found room for: as many as there is room for."""
        for branch, holder in self.leases(block.id).items():
            if holder == "*" and branch in block.again:
                assert not self.paused, "a block of a paused run is opened again"
                child = block.again.pop(branch)
                block.parked[branch] = child
                self.reopen(self.blocks[child])

    # Moves

    def call(self, lane: Lane, commits: list[Commit], releases: list[int], want: int, lose: bool) -> None:
        """One call of a lane; with ``lose`` its answer is lost, and it calls again with the same words."""
        block = self.blocks[lane.block]
        if block.widths[lane.track] < block.tracks[lane.track].width:
            # A lane of many asks for as many as its track is wide, which it does not know to have become narrower.
            want = 0
        believed = lane.holds - {commit.branch for commit in commits} - set(releases)
        for again in (False, True) if lose else (False,):
            was_open = block.state == "open"
            if was_open and self.run_state == "pending" and not self.paused:
                self.run_state = "running"
            late = self.expected_commits(block, lane.token, commits)
            if block.state == "open":
                for branch in releases:
                    if block.leased.get(branch) == lane.token:
                        del block.leased[branch]
            served = self.play.serve(
                lane.block, lane.token, commits, track=lane.track, want=want, held=len(believed), releases=releases
            )
            lost = lose and not again
            assert served.state == block.state
            assert served.late == late
            if served.state == "open":
                self.learn_parked(block)
                self.learn_leases(block, lane.token, None if lost else served)
                block.note(lane.token, lane.track)
            else:
                assert served.leases == ()
            self.learn_resumed(block, lane, served, first=was_open)
            if not lost:
                self.take(served.messages)
        lane.holds = believed
        if served.state != "open":
            lane.holds = set()
            if served.resumed is not None:
                lane.block, lane.track = served.resumed.block, served.resumed.track
                lane.holds = {served.resumed.lease.branch}
                return
        elif served.resync:
            lane.holds = {lease.branch for lease in served.leases}
        else:
            lane.holds |= {lease.branch for lease in served.leases}
        if not lane.holds:
            self.lanes.remove(lane)

    def learn_resumed(self, block: Block, lane: Lane, served: Served, *, first: bool) -> None:
        if served.resumed is None:
            # Once it has been told to go on, it is told so again for as long as it has not.
            if block.state == "ok" and block.parent is not None:
                parent = self.blocks[block.parent]
                assert parent.leased.get(block.branch) != lane.token or parent.after[block.branch] != block.id
            return
        assert block.state == "ok"
        assert block.parent is not None
        parent = self.blocks[block.parent]
        lease = served.resumed.lease
        assert (served.resumed.block, lease.branch, lease.after) == (parent.id, block.branch, block.id)
        assert lease.attempt == parent.lost.get(block.branch, 0) + 1
        if first:
            assert not self.paused, "a branch of a paused run is resumed"
            assert block.branch in parent.waiting
            assert self.leases(parent.id)[block.branch] == lane.token
            parent.leased[block.branch] = lane.token
            parent.begun.setdefault(lane.token, 1)
        else:
            assert parent.leased[block.branch] == lane.token

    def new_lane(self, worker: str, block: str, track: int, lose: bool) -> None:
        # Each lane of its own process, so that one can die alone.
        lane = Lane(self.play.lane(worker, next(self.numbers)), worker, block, track)
        self.lanes.append(lane)
        self.call(lane, [], [], 0, lose)

    @initialize(data=strategies.data())
    def begin(self, data: strategies.DataObject) -> None:
        """The run meets its first block."""
        self.new_lane(STEADY, ROOT, 0, lose=False)
        self.meet(data, self.lanes[0], data.draw(strategies.integers(2, 12)), lose=False)

    @rule(data=strategies.data(), lose=strategies.booleans())
    def arrive(self, data: strategies.DataObject, lose: bool) -> None:
        """A lane comes to any block: by a message, by one delivered twice, late, or that was meant for another time."""
        wanted = [name for name, block in self.blocks.items() if block.state == "open" and block.waiting]
        block = data.draw(strategies.sampled_from(sorted(wanted) * 3 + sorted(self.blocks)))
        number = data.draw(strategies.integers(0, len(self.blocks[block].tracks) - 1))
        self.new_lane(data.draw(strategies.sampled_from(self.workers)), block, number, lose)

    @precondition(lambda self: any(lane.block != ROOT for lane in self.lanes))
    @rule(data=strategies.data(), want=strategies.integers(0, 6), lose=strategies.booleans())
    def serve(self, data: strategies.DataObject, want: int, lose: bool) -> None:
        """A lane commits some of what it holds, gives some back, and asks for more."""
        lane = data.draw(strategies.sampled_from([lane for lane in self.lanes if lane.block != ROOT]))
        while lane in self.lanes and lane.block != ROOT:
            self.serve_once(data, lane, want, lose)
            if data.draw(strategies.booleans()):
                break

    @precondition(lambda self: self.lanes)
    @rule(data=strategies.data(), want=strategies.integers(0, 6), lose=strategies.booleans())
    def progress(self, data: strategies.DataObject, want: int, lose: bool) -> None:
        """Lanes come to whatever waits, and each that there is makes a call."""
        for block in [block for block in self.blocks.values() if block.state == "open" and block.waiting]:
            for number in range(len(block.tracks)):
                self.new_lane(data.draw(strategies.sampled_from(self.workers)), block.id, number, lose)
        for lane in list(self.lanes):
            if lane in self.lanes and lane.block != ROOT:
                self.serve_once(data, lane, want, lose)

    def serve_once(self, data: strategies.DataObject, lane: Lane, want: int, lose: bool) -> None:
        wide = self.blocks[lane.block].tracks[lane.track].width > 1
        commits, releases = [], []
        for branch in sorted(lane.holds):
            kinds = ["ok"] * 6 + ["error"] + (["keep"] * 3 if wide else ["release"] * 2)
            kind = data.draw(strategies.sampled_from(kinds))
            if kind in ("ok", "error"):
                commits.append(Commit(branch, "ok" if kind == "ok" else "error", b"\x80"))
            elif kind == "release":
                releases.append(branch)
        self.call(lane, commits, releases, want, lose)

    @precondition(lambda self: any(lane.block == ROOT for lane in self.lanes))
    @rule(data=strategies.data(), kind=strategies.sampled_from(["ok", "error", "release"]), lose=strategies.booleans())
    def serve_root(self, data: strategies.DataObject, kind: str, lose: bool) -> None:
        """The whole workflow's one branch ends, mostly after it has met some blocks."""
        lane = data.draw(strategies.sampled_from([lane for lane in self.lanes if lane.block == ROOT]))
        if kind != "release" and not self.seldom(data, 2 if self.blocks[ROOT].after else 8):
            return
        branches = sorted(lane.holds)
        commits = [Commit(branch, "ok" if kind == "ok" else "error", b"\x80") for branch in branches]
        self.call(lane, *(([], branches) if kind == "release" else (commits, [])), 1, lose)

    @staticmethod
    def seldom(data: strategies.DataObject, of: int) -> bool:
        # Not the least nor the greatest, which are drawn more often than others.
        return data.draw(strategies.integers(0, of)) == of // 2

    @precondition(lambda self: self.lanes)
    @rule(data=strategies.data(), lose=strategies.booleans())
    def open(self, data: strategies.DataObject, lose: bool) -> None:
        """A branch meets a block; its lane may see a time-out and ask again."""
        narrow = [lane for lane in self.lanes if self.blocks[lane.block].tracks[lane.track].width == 1]
        able = [lane for lane in narrow if self.blocks[lane.block].depth < DEEPEST]
        if able and len(self.blocks) < MOST_BLOCKS:
            self.meet(data, data.draw(strategies.sampled_from(able)), data.draw(strategies.integers(1, 4)), lose)

    def meet(self, data: strategies.DataObject, lane: Lane, n: int, lose: bool) -> None:
        parent = self.blocks[lane.block]
        branch = data.draw(strategies.sampled_from(sorted(lane.holds)))
        limit = data.draw(strategies.integers(0, 3))
        on_error = data.draw(strategies.sampled_from(["cancel", "collect"]))
        timeout = data.draw(strategies.sampled_from([0.0, 3600.0]))
        tracks, track_of = self.draw_tracks(data, n)
        path = (next(self.numbers),)
        fits = parent.state == "open" and parent.leased.get(branch) == lane.token
        for _ in range(2 if lose else 1):
            deadline = self.play.open(
                parent.id, branch, lane.token, n, track_of_branch=lane.track, path=path, limit=limit,
                timeout=timeout, on_error=on_error, tracks=tracks,
            )  # fmt: skip
            assert (deadline is not None) == fits
        lane.holds.discard(branch)
        if fits:
            child = f"{parent.id}.{branch}-{path[0]}"
            self.blocks[child] = Block(
                child, parent.id, branch, n, limit, on_error, tracks, track_of, has_deadline=timeout > 0
            )
            del parent.leased[branch]
            parent.parked[branch] = child
        self.call(lane, [], sorted(lane.holds), 1, lose=False)

    def draw_tracks(self, data: strategies.DataObject, n: int) -> tuple[tuple[Track, ...], dict[int, int]]:
        widths, lanes = strategies.sampled_from([1, 1, 3]), strategies.integers(1, 3)
        count = min(n, data.draw(strategies.sampled_from([1, 1, 2])))
        members = [list(range(n))[number::count] for number in range(count)]
        tracks = tuple(
            track(
                len(mine),
                queue=data.draw(strategies.sampled_from(QUEUES)),
                width=data.draw(widths),
                lanes=data.draw(lanes),
                of=mine if count > 1 else None,
                limit=f"{self.limit} 2 0 0 0 -" if data.draw(strategies.integers(0, 3)) == 2 else "",
            )
            for mine in members
        )
        return tracks, {branch: number for number, mine in enumerate(members) for branch in mine}

    @precondition(lambda self: self.lanes)
    @rule(data=strategies.data())
    def foreign(self, data: strategies.DataObject) -> None:
        """What a lane of another time commits is refused, whoever holds the branch."""
        lane = data.draw(strategies.sampled_from(self.lanes))
        stranger = Lane(self.play.lane("stranger@there", 0), "stranger@there", lane.block, lane.track)
        before = dict(self.blocks[lane.block].leased)
        held = sorted(lane.holds)
        block = self.blocks[lane.block]
        if block.state == "open" and self.run_state == "pending" and not self.paused:
            self.run_state = "running"
        # Believing that it holds more than it does, it is leased nothing.
        served = self.play.serve(
            lane.block, stranger.token, [Commit(branch, "ok", b"stolen") for branch in held],
            track=lane.track, held=1, releases=held,
        )  # fmt: skip
        assert served.late == len(held)
        assert served.leases == ()
        assert self.blocks[lane.block].leased == before

    @precondition(lambda self: self.lanes)
    @rule(data=strategies.data(), harm=strategies.sampled_from(["process", "worker", "presumed", "lane"]))
    def harm(self, data: strategies.DataObject, harm: str) -> None:
        """A lane is lost: by its own error, with its process or its worker; or its worker is only thought dead."""
        lane = data.draw(strategies.sampled_from(self.lanes))
        if harm == "process":
            # The lane is still on its worker's list, so that what it does is fenced off as soon as that is swept.
            self.dead.add(lane.token.rpartition("/")[0])
        elif harm == "lane":
            self.lanes.remove(lane)
        elif lane.worker != STEADY and lane.worker in self.workers:
            self.workers.remove(lane.worker)
            self.workers.append(f"w{next(self.numbers)}@there")
            if harm == "worker":
                self.lanes = [other for other in self.lanes if other.worker != lane.worker]

    @precondition(lambda self: self.lanes)
    @rule(data=strategies.data(), is_known=strategies.booleans(), lacked_memory=strategies.booleans())
    def die(self, data: strategies.DataObject, is_known: bool, lacked_memory: bool) -> None:
        """A lane's process dies, and its worker has seen at what, or not: of many that lacked memory none is blamed."""
        many = [lane for lane in self.lanes if len(lane.holds) > 1]
        lane = data.draw(strategies.sampled_from(many * 3 + self.lanes))
        self.lanes.remove(lane)
        block = self.blocks[lane.block]
        held = sorted(branch for branch, token in block.leased.items() if token == lane.token)
        at = data.draw(strategies.sampled_from(held)) if is_known and held else None
        loss = Loss(verdict="lost", branch=at, why="it died", node="n", lacked_memory=lacked_memory)
        messages = self.ledger.lost(self.play.run, block.id, lane.token, loss)
        for beside in self.blocks.values():
            for branch in [branch for branch, token in beside.leased.items() if token == lane.token]:
                assert beside is block or self.is_near(beside, block)
                del beside.leased[branch]
        if block.state == "open" and held:
            is_crowd = lacked_memory and len(held) > 1 and block.tracks[lane.track].width > 1
            blamed = [at] if at is not None else [] if is_crowd else held
            before, block.widths = block.widths, list(self.play.record(block.id).widths[: len(block.tracks)])
            assert all(1 <= now <= was for now, was in zip(block.widths, before, strict=True))
            assert is_crowd or block.widths == before
            self.lose(block, blamed)
        self.take(messages)
        assert self.ledger.lost(self.play.run, block.id, lane.token, loss) == []

    def is_near(self, block: Block, other: Block) -> bool:
        return block.id == other.parent or other.id == block.parent

    @rule(data=strategies.data())
    def sweep(self, data: strategies.DataObject) -> None:
        """A janitor looks after a block, perhaps two at once."""
        self.do_sweep(data.draw(strategies.sampled_from(sorted(self.blocks))))

    def do_sweep(self, name: str) -> None:
        block = self.blocks[name]
        if block.state != "open":
            assert ("hint", name) not in self.play.agenda()
            return
        gone = []
        for branch, token in sorted(block.leased.items()):
            process = token.rpartition("/")[0]
            known = process.rpartition("/")[0] in self.workers and token in {lane.token for lane in self.lanes}
            if not known or process in self.dead:
                del block.leased[branch]
                gone.append(branch)
        self.lose(block, gone)
        lanes = [lane.token for lane in self.lanes]
        messages = self.play.sweep("hint", name, alive=self.workers, dead=self.dead, lanes=lanes)
        self.take(messages)
        again = self.play.sweep("hint", name, alive=self.workers, dead=self.dead, lanes=lanes, due=False)
        assert again == []

    @rule(data=strategies.data(), by_lane=strategies.booleans())
    def deadline(self, data: strategies.DataObject, by_lane: bool) -> None:
        """The deadline of a block comes; a janitor or a lane is the first to see it."""
        timed = sorted(name for name, block in self.blocks.items() if block.has_deadline and block.state == "open")
        if not timed or not self.seldom(data, 5):
            return
        name = data.draw(strategies.sampled_from(timed))
        self.fail(self.blocks[name], "timeout")
        if by_lane:
            self.play.make_due("deadline", name)
            served = self.play.serve(name, self.play.lane(STEADY))
            assert (served.state, served.leases, served.resumed) == ("timeout", (), None)
            self.take(served.messages)
        else:
            self.take(self.play.sweep("deadline", name))

    @rule(data=strategies.data())
    def cancel(self, data: strategies.DataObject) -> None:
        """The user cancels; after the end that changes nothing."""
        if not self.seldom(data, 20):
            return
        if self.run_state in ("pending", "running"):
            self.close(self.blocks[ROOT], "cancelled")
            self.end_run("cancelled")
        assert self.ledger.cancel(self.play.run) == self.run_state

    @rule(data=strategies.data())
    def retry(self, data: strategies.DataObject) -> None:
        """The user has what did not end well run again; in any other state that changes nothing."""
        able = self.run_state in ("failed", "cancelled")
        if not able and not self.seldom(data, 20):
            return
        before, messages = self.ledger.retry(self.play.run)
        assert before == self.seen_state
        if able:
            self.run_state = "running"
            self.ends = 0
            self.reopen(self.blocks[ROOT])
        else:
            assert messages == []
        self.take(messages)

    @rule(data=strategies.data())
    def pause(self, data: strategies.DataObject) -> None:
        """The user pauses; a second time, or after the end, that changes nothing."""
        if not self.seldom(data, 3):
            return
        self.paused = self.run_state in ("pending", "running")
        assert self.ledger.pause(self.play.run) == self.seen_state

    @rule(data=strategies.data())
    def resume(self, data: strategies.DataObject) -> None:
        """The user lets the run go on: a lane is asked for wherever branches wait, as many as planned at most."""
        if data.draw(strategies.booleans()):
            self.do_resume()

    def do_resume(self) -> None:
        was_paused, self.paused = self.paused, False
        state, messages = self.ledger.resume(self.play.run)
        assert state == self.run_state
        waits = Counter(
            (block.id, block.track_of[branch])
            for block in self.blocks.values()
            if was_paused and block.state == "open"
            for branch in block.waiting
        )
        planned = {
            (name, number): min(n, self.blocks[name].tracks[number].lanes) for (name, number), n in waits.items()
        }
        assert Counter((message.block, message.track) for message in messages) == planned
        self.take(messages)

    def reopen(self, block: Block) -> None:
        block.state = "open"
        block.lost.clear()
        block.leased.clear()
        block.begun.clear()
        stood = {child.branch: child for child in self.blocks.values() if child.parent == block.id}
        block.ended = {branch: kind for branch, kind in block.ended.items() if kind == "ok"}
        block.parked.clear()
        # A branch stands at the child that it met last.
        block.again = {
            branch: child.id for branch, child in stood.items() if branch not in block.ended and child.state != "ok"
        }
        room = self.room(block)
        self.learn_parked(block)
        assert len(block.parked) in room

    def room(self, block: Block) -> range:
        """How many of its children one call opens again with a block."""
        room = min(len(block.again), block.limit or len(block.again))
        return range(room, room + 1)

    @precondition(lambda self: self.messages)
    @rule(data=strategies.data(), drop=strategies.booleans())
    def deliver(self, data: strategies.DataObject, drop: bool) -> None:
        """A message that a transition asked for arrives, or is lost."""
        message = self.messages.pop(data.draw(strategies.integers(0, len(self.messages) - 1)))
        if drop:
            return
        worker = data.draw(strategies.sampled_from(self.workers))
        self.follow(message, worker)

    def follow(self, message: Message, worker: str) -> None:
        block = self.blocks[message.block]
        if message.kind == "lane":
            assert message.queue == block.tracks[message.track].queue
            self.new_lane(worker, block.id, message.track, lose=False)
        elif block.parent is not None and block.state == "ok":
            parent = self.blocks[block.parent]
            number = parent.track_of[block.branch]
            assert message.queue == parent.tracks[number].queue
            self.new_lane(worker, parent.id, number, lose=False)

    # What always holds

    @invariant()
    def no_more_have_a_place(self) -> None:
        """Two branches of limited tracks have a place at most, those of blocks that have just ended included."""
        assert self.ledger.redis.zcard(self.ledger.keys.limit("h", self.limit)) <= 2

    @invariant()
    def the_ledger_agrees(self) -> None:
        """Each block is as the model says, never above its limit, and nothing is leased, ended or counted twice."""
        names = sorted(self.blocks)
        pipe = self.ledger.redis.pipeline(transaction=True)
        for name in names:
            pipe.hgetall(self.key("b", name))
            pipe.hkeys(self.key("r", name))
            pipe.hkeys(self.key("e", name))
            pipe.hgetall(self.key("l", name))
        found = iter(pipe.execute())
        for name in names:
            block = self.blocks[name]
            record = BlockRecord.of(name, next(found))
            good, bad = ([int(branch) for branch in next(found)] for _ in range(2))
            leases = next(found)
            assert record.state == block.state, name
            assert sorted(good + bad) == sorted(block.ended), name
            assert set(good) == {branch for branch, kind in block.ended.items() if kind == "ok"}, name
            if block.state != "open":
                continue
            assert record.done == len(block.ended), name
            held = holders(leases)
            assert held == {**block.leased, **dict.fromkeys(block.parked, "*")}, (name, held, block)
            slots = block.slots
            assert record.running == slots, name
            assert not block.limit or slots <= block.limit, name

    @invariant()
    def it_ends_once(self) -> None:
        """There is one end, the state does not change after it, and the agenda holds open blocks only."""
        assert self.play.state == self.seen_state
        assert self.play.ends() == self.ends == int(self.run_state not in ("pending", "running"))
        still_open = [block for block in self.blocks.values() if block.state == "open"]
        expected = {("hint", block.id) for block in still_open}
        expected |= {("deadline", block.id) for block in still_open if block.has_deadline}
        assert set(self.play.agenda()) == expected

    def key(self, kind: str, block: str) -> str:
        return self.ledger.keys.block(self.play.run, kind, block)

    def check_times_to_live(self) -> None:
        pipe = self.ledger.redis.pipeline(transaction=True)
        for key in self.play.written():
            pipe.pttl(key)
        left = pipe.execute()
        assert all(0 < ttl <= 60_000 for ttl in left) if self.ends else set(left) == {-1}

    def check_counts(self) -> None:
        """What is counted for ever is what the ledger holds: a value that is kept was counted once."""
        counted = counts.read(self.ledger)[0]["flow"]
        well = [kind for block in self.blocks.values() if block.id != ROOT for kind in block.ended.values()].count("ok")
        assert counted.numbers.get("branches:ok", 0) == well
        assert counted.durations[f"run:{self.run_state}"].count >= 1
        ends = sum(durations.count for durations in counted.labelled("run").values())
        assert ends == 1 + counted.numbers.get("retried", 0)

    def teardown(self) -> None:
        """With janitors, and lanes that do what they are asked to, the run ends, and can be deleted without a trace."""
        self.check_times_to_live()
        self.messages.clear()
        self.do_resume()
        rounds = itertools.count()
        while not self.ends:
            assert next(rounds) < 1000, "the run does not end"
            for lane in list(self.lanes):
                if lane in self.lanes:
                    commits = [Commit(branch, "ok", b"\x80") for branch in sorted(lane.holds)]
                    self.call(lane, commits, [], 1, lose=next(rounds) % 3 == 0)
            for message in self.messages:
                self.follow(message, STEADY)
            self.messages.clear()
            if not self.lanes and not self.ends:
                for name in sorted(self.blocks):
                    self.do_sweep(name)
                # As if time had gone by: what was called, and whose message was lost, is not waited for any more.
                called = self.ledger.keys.limit("c", self.limit)
                for member in self.ledger.redis.hkeys(called):
                    self.ledger.redis.hset(called, member, "1 1")
                workers = {worker: Presence(at=0) for worker in self.workers}
                self.take(self.ledger.tend(self.limit, "janitor", workers=workers).messages)
        self.the_ledger_agrees()
        self.it_ends_once()
        self.check_times_to_live()
        self.check_counts()
        assert self.ledger.delete(self.play.run)
        assert self.play.written() == set()
        assert self.play.agenda() == {}


@pytest.mark.timeout(TIMEOUT)
def test_any_interleaving_ends_as_it_should(ledger: Ledger, interleavings: settings) -> None:
    """Whatever happens: no branch is lost or counted twice, no limit is passed, and there is one end."""

    class Machine(Interleavings):
        pass

    Machine.ledger = ledger
    run_state_machine_as_test(Machine, settings=interleavings)
