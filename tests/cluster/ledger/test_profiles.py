"""What was learned of functions, kept for all workers."""

from __future__ import annotations

import threading

import pytest

from egregore_dist.ledger import Ledger, profiles
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources.profile import MOST, Profile


def seen(*walls: float) -> Profile:
    found = Profile(count=float(len(walls)))
    for wall in walls:
        found.wall.add(wall)
    return found


def test_what_is_learned_is_read(ledger: Ledger) -> None:
    """Profiles are read by function; of one that is not known nothing is said."""
    known = Profiles(ledger)
    known.learn({"m:a:f": seen(1.0, 3.0), "v:0": seen(2.0)})

    found = known.read(["m:a:f", "m:a:g"])

    assert found.keys() == {"m:a:f"}
    assert (found["m:a:f"].count, found["m:a:f"].wall.mean) == (2.0, 2.0)
    assert found["m:a:f"].at == pytest.approx(ledger.now(), abs=60_000)
    assert known.read([]) == {}


def test_what_is_learned_adds_up(ledger: Ledger) -> None:
    """A second lesson is merged with the first; all executions count, of each quantity a bounded number is kept."""
    known = Profiles(ledger)
    known.learn({"f": seen(*[1.0] * 30)})
    known.learn({"f": seen(*[3.0] * 10)})
    once = known.read(["f"])["f"]
    for _ in range(3):
        known.learn({"f": seen(*[0.5] * 1000)})

    assert once.count == pytest.approx(40, rel=0.01)
    assert once.wall.mean == pytest.approx(1.5, rel=0.01)
    found = known.read(["f"])["f"]
    assert found.count == pytest.approx(3040, rel=0.01)
    assert found.wall.weight == pytest.approx(MOST, rel=0.01)


def test_nothing_is_lost_where_many_learn_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that learn of the same functions at the same time are all heard."""
    monkeypatch.setattr(profiles, "_TRIES", 100)
    known = Profiles(ledger)

    def learn() -> None:
        for _ in range(10):
            known.learn({"f": seen(1.0), "g": seen(2.0)})

    threads = [threading.Thread(target=learn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = known.read(["f", "g"])
    assert [found[name].count for name in "fg"] == pytest.approx([80, 80], rel=0.02)


def test_functions_are_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded number of functions is kept: those that something was learned of last."""
    monkeypatch.setattr(profiles, "KEPT", 20)
    known = Profiles(ledger)
    names = [f"f{number:03}" for number in range(120)]
    known.learn({name: seen(1.0) for name in names})
    known.learn({"f119": seen(1.0)})
    known.learn({"last": seen(1.0)})

    found = known.read([*names, "last"])

    assert len(found) == ledger.redis.zcard(f"{ledger.keys.profiles}:used") == 20
    assert {"f119", "last"} <= found.keys()


def test_what_cannot_be_read_is_learned_anew(ledger: Ledger) -> None:
    """A profile of a release that this one does not know does no harm."""
    known = Profiles(ledger)
    ledger.redis.hset(ledger.keys.profiles, "f", b"\xc1")

    assert known.read(["f"])["f"] == Profile()
    known.learn({"f": seen(1.0)})
    assert known.read(["f"])["f"].count == pytest.approx(1.0)
