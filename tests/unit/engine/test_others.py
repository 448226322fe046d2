"""What a worker's main process and its pool tell each other of who waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import monotonic

import pytest

from egregore_dist.engine import others


@pytest.fixture(autouse=True)
def _nobody_waits() -> Iterator[None]:
    others.say(False)
    yield
    others.say(False)


def test_who_was_seen_before_does_not_count() -> None:
    """A lane is told of those that were seen since it began, until nobody is seen any more."""
    others.say(True)
    began = monotonic()
    assert not others.wait(began)

    others.say(True)
    assert others.wait(began)

    others.say(False)
    assert not others.wait(began)


def test_who_waits_for_room_is_for_those_who_have_some() -> None:
    """A lane that was admitted with nothing would leave for nobody."""
    began = monotonic()
    others.say(False, for_room=True)

    assert not others.wait(began)
    assert others.wait(began, has_room=True)


def test_a_process_of_the_pool_asks_and_is_told() -> None:
    """What it asks is seen by the process that forked it, and what that one has said by it."""
    before = monotonic()
    others.say(True)
    pid = os.fork()
    if pid == 0:
        os._exit(others.wait(before))

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert others.asked() >= before
