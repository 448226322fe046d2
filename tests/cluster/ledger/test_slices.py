"""What ends, starts or forgets a large run is done in calls of a bounded size, and is one change to who looks on."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha1
from typing import cast

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from egregore_dist import errors
from egregore_dist.client.server import Server
from egregore_dist.ledger import Ledger, Work, scripts
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import Play, bad, numbers, ok, track
from tests.cluster.ledger.profiles import TIMEOUT
from tests.cluster.ledger.test_interleavings import Block, Interleavings

LOAD = scripts.load
LIMITS = re.compile(r"SLICE, REOPENED_AT_MOST = \d+, \d+")


def slices_of(monkeypatch: pytest.MonkeyPatch, closed: int, reopened: int) -> None:
    """Have one call do so little."""

    def load(name: str) -> scripts.Script:
        text, count = LIMITS.subn(f"SLICE, REOPENED_AT_MOST = {closed}, {reopened}", LOAD(name).text)
        assert count == 1
        # The server knows a script by its sum.
        return dataclasses.replace(LOAD(name), text=text, sha=sha1(text.encode(), usedforsecurity=False).hexdigest())

    monkeypatch.setattr(scripts, "load", load)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Ledger:
    """A ledger whose calls deal with a few blocks each."""
    slices_of(monkeypatch, 5, 3)
    return ledger


def gives_up(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, after: int, act: Callable[[], object]) -> None:
    """Do something, but for what comes after so many calls: the caller has died."""

    class Died(Exception):
        pass

    calls = 0
    inner = ledger._transition

    def transition(name: str, run: str, args: list[object]) -> object:
        nonlocal calls
        if calls == after:
            raise Died
        calls += 1
        return inner(name, run, args)

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_transition", transition)
        with pytest.raises(Died):
            act()


# More than what a server hands out at once, whatever it is asked for.
MANY = 700


def nest(play: Play, children: int = MANY, **options: object) -> tuple[str, list[str]]:
    """A block whose every branch stands at a block of its own; returns it, and those."""
    block, lane = play.block(children, **options), play.lane()
    found = []
    served = play.serve(block, lane, want=1)
    while served.leases:
        found += [play.nest(block, branch, lane, 2, input=ROOT) for branch in numbers(served)]
        served = play.serve(block, lane, want=1)
    return block, found


def ttls(play: Play) -> set[bool]:
    """Whether keys of the run expire."""
    return {play.ledger.redis.pttl(key) > 0 for key in play.written()}


def states(play: Play, blocks: list[str]) -> set[str]:
    """The states of blocks, as their records say."""
    return {play.record(block).state for block in blocks}


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("limits", [(1, 1), (2, 3)])
def test_any_interleaving_in_small_slices(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, interleavings: settings, limits: tuple[int, int]
) -> None:
    """A run whose ends and retries take many calls is to everybody as one whose take one."""
    slices_of(monkeypatch, *limits)

    class Machine(Interleavings):
        def room(self, block: Block) -> range:
            return range(super().room(block).stop)

    Machine.ledger = ledger
    run_state_machine_as_test(Machine, settings=interleavings)


def test_a_run_whose_canceller_died(small: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first call on nothing of it is served, and a janitor brings the end."""
    play = Play.submit(small)
    block, inner = nest(play)
    lane = play.lane()
    assert numbers(play.serve(inner[-1], lane)) == [0]
    gives_up(small, monkeypatch, 2, lambda: small.cancel(play.run))

    assert play.record(block).state == "cancelled"
    still_open = [child for child in inner if play.record(child).state == "open"]
    assert still_open
    assert play.state == "running"
    # What stands below is served no more, whatever its record says.
    for child in (still_open[0], still_open[-1]):
        served = play.serve(child, play.lane())
        assert (served.state, served.leases) == ("cancelled", ())
        assert play.open(child, 0, lane, 2) is None
    served = play.serve(inner[-1], lane, ok(0))
    assert served.late == 1
    assert play.ledger.results(play.run, inner[-1]) == {}
    assert small.pause(play.run) == "running"
    assert small.retry(play.run) == ("running", [])
    assert not small.delete(play.run)
    assert ("hint", still_open[0]) in play.agenda()

    play.sweep("tidy", ROOT)
    assert play.state == "cancelled"
    assert (states(play, inner), play.ends(), play.agenda()) == ({"cancelled"}, 1, {})
    assert ttls(play) == {True}


def test_a_second_caller_goes_on(small: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cancels a run that is being cancelled, or fails, waits for that, and is told how it ended."""
    play = Play.submit(small)
    block, inner = nest(play)
    play.serve(inner[0], lane := play.lane())
    gives_up(small, monkeypatch, 2, lambda: play.serve(inner[0], lane, bad(0)))

    assert (play.state, play.record(block).state) == ("running", "error")
    assert small.cancel(play.run) == "failed"
    assert states(play, inner[1:]) == {"cancelled"}
    assert play.ends() == 1


def test_a_block_among_others_ends_in_slices(small: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where errors are collected, what is beside a block that fails goes on while what is below it is closed."""
    play = Play.submit(small)
    outer, lane = play.block(2, on_error="collect"), play.lane()
    play.serve(outer, lane)
    failing = play.nest(outer, 0, lane, MANY, path=(1,))
    below = []
    while (served := play.serve(failing, lane)).leases:
        below += [play.nest(failing, branch, lane, 2) for branch in numbers(served)]
    deep = play.lane()
    for each in below[1:]:
        play.serve(each, deep)
    other = play.lane()
    assert numbers(play.serve(outer, other)) == [1]
    first = play.lane()
    play.serve(below[0], first)
    gives_up(small, monkeypatch, 1, lambda: play.serve(below[0], first, bad(0)))

    assert play.record(failing).state == "error"
    # Which of them come first is the server's choice.
    left = next(each for each in below[1:] if play.record(each).state == "open")
    assert play.serve(left, deep, ok(0)).late == 1
    # The run goes on, up to its end; that waits for what has not been closed.
    assert play.record(outer).done == 1
    assert play.serve(outer, other, ok(1)).resumed is not None
    play.serve(ROOT, other, ok(0))
    assert play.state == "succeeded"
    assert states(play, below[1:]) == {"cancelled"}
    assert (play.ends(), play.agenda(), ttls(play)) == (1, {}, {True})


def test_keys_expire_though_nobody_went_on(small: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has ended once it is closed; that its keys expire may come later."""
    play = Play.submit(small)
    nest(play)
    while play.state == "running":
        gives_up(small, monkeypatch, 20, lambda: small.cancel(play.run))
    assert play.state == "cancelled"
    assert ttls(play) == {True, False}

    play.sweep("tidy", ROOT)
    assert (ttls(play), play.agenda()) == ({True}, {})


def test_a_retry_that_was_given_up(small: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the last of its calls the run has ended as before: its keys come to expire, or another retry comes."""
    play = Play.submit(small)
    _, inner = nest(play)
    small.cancel(play.run)
    for finds in ("janitor", "retry"):
        gives_up(small, monkeypatch, 3, lambda: small.retry(play.run))
        assert (play.state, ttls(play)) == ("cancelled", {True, False})
        assert play.serve(inner[0], play.lane()).state == "cancelled"
        if finds == "janitor":
            play.sweep("tidy", ROOT)
            assert (play.state, ttls(play), play.agenda()) == ("cancelled", {True}, {})

    before, messages = small.retry(play.run)
    assert (before, play.state, ttls(play)) == ("cancelled", "running", {False})
    assert {message.kind for message in messages} == {"lane"}


def test_a_retried_run_opens_its_blocks_by_and_by(small: Ledger) -> None:
    """Few blocks are opened by one call; lanes open the others, and all of them end once."""
    play = Play.submit(small)
    block, inner = nest(play, 60)
    small.cancel(play.run)
    _, wanted = small.retry(play.run)
    assert 0 < sum(play.record(child).state == "open" for child in inner) <= 3
    rounds = 0
    while wanted:
        rounds += 1
        assert rounds < 1000
        message = wanted.pop(0)
        assert message.kind == "lane"
        lane, at = play.lane(), message.block
        served = play.serve(at, lane)
        while True:
            wanted += served.messages
            if served.resumed is not None:
                at = served.resumed.block
                held = [served.resumed.lease.branch]
            elif served.leases:
                held = numbers(served)
            else:
                break
            served = play.serve(at, lane, ok(*held))

    assert play.state == "succeeded"
    assert states(play, [block, *inner]) == {"ok"}
    assert set(small.results(play.run, block)) == set(range(60))


def test_a_resumed_run_is_asked_for_in_slices(small: Ledger) -> None:
    """Each block where branches wait is asked for."""
    play = Play.submit(small)
    _, inner = nest(play)
    small.pause(play.run)
    state, messages = small.resume(play.run)

    assert state == "running"
    assert set(Counter(message.block for message in messages)) == set(inner)
    assert small.resume(play.run) == ("running", [])


def test_a_delete_that_was_given_up(small: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing starts from what is left, the id stays taken, and a janitor takes the rest away."""
    play = Play.submit(small)
    nest(play)
    small.cancel(play.run)
    gives_up(small, monkeypatch, 2, lambda: small.delete(play.run))
    assert play.written()
    with pytest.raises(errors.RunNotFound):
        small.retry(play.run)
    assert not small.submit(play.run, Work("w", b"", b""), code={}, input=b"", queue="q").new

    play.sweep("tidy", ROOT)
    assert (play.written(), play.agenda()) == (set(), {})
    assert small.submit(play.run, Work("w", b"", b""), code={}, input=b"", queue="q").new


@pytest.fixture
def alone() -> Iterator[Ledger]:
    """A ledger on a server that nobody else uses, so that its counters are this test's."""
    with Server.start() as server:
        ledger = Ledger(server.url, retries=0)
        yield ledger
        ledger.close()


def test_no_call_holds_the_server_for_long(alone: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run of 10 000 nested blocks too: the commands of each call, in a run's whole life, are 30 ms of work."""
    play = Play.submit(alone)
    count = 10_000
    block, lane = play.block(count, tracks=[track(count, lanes=1)]), play.lane()
    while (served := play.serve(block, lane, want=1000)).leases:
        for branch in numbers(served):
            play.nest(block, branch, lane, 2, input=ROOT)
    most: dict[str, int] = {}
    inner = alone._transition

    def commands() -> int:
        found = cast(dict[str, dict[str, int]], alone.redis.info("commandstats"))
        return sum(said["calls"] for said in found.values())

    def transition(name: str, run: str, args: list[object]) -> object:
        before = commands()
        answer = inner(name, run, args)
        most[name] = max(most.get(name, 0), commands() - before)
        return answer

    monkeypatch.setattr(alone, "_transition", transition)
    play.sweep("hint", block, lanes=[lane])
    alone.pause(play.run)
    alone.resume(play.run)
    alone.cancel(play.run)
    _, wanted = alone.retry(play.run)
    play.serve(block, play.lane())
    play.serve(wanted[0].block, lane)
    play.serve(wanted[0].block, lane, bad(0))
    alone.delete(play.run)

    assert {"sweep", "pause", "resume", "cancel", "tidy", "retry", "serve", "delete"} <= set(most)
    assert max(most.values()) < 30_000, most
    assert play.written() == set()
