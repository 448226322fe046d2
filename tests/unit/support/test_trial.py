"""A trial tells apart runs that end well and runs that fail, and holds what it was told against the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from egregore_dist import Run, RunFailed, RunLost
from egregore_dist.errors import RunCancelled
from tests.support import trial as trials
from tests.support.history import Seen
from tests.support.trial import Trial


class Told:
    """A run as far as a reader is told of it."""

    id = "it"

    def __init__(self, end: Any) -> None:
        self._end = end

    def result(self, **_: Any) -> Any:
        if isinstance(self._end, RunFailed):
            raise self._end
        return self._end


def told(end: Any) -> Run:
    """A run that ends like this."""
    return cast(Run, Told(end))


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """One without any cluster."""
    monkeypatch.setattr(trials.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    return Trial()


@pytest.mark.parametrize("kind", [RunFailed, RunCancelled, RunLost])
def test_a_failure_is_no_result(trial: Trial, kind: Callable[[str], RunFailed]) -> None:
    """It is raised where a value is wanted, and is a value where it is asked for."""
    error = kind("no")

    with pytest.raises(RunFailed) as caught:
        trial.result(told(error))
    assert caught.value is error
    assert trial.failure(told(error)) is error
    assert trial.outcome(told(error)) is error


def test_a_value_is_no_failure(trial: Trial) -> None:
    """Whatever it is, and None too."""
    for value in (None, 0, "value"):
        assert trial.result(told(value)) == trial.outcome(told(value)) == value
        with pytest.raises(AssertionError, match="run it ended well"):
            trial.failure(told(value))


def test_what_was_told_is_kept(trial: Trial) -> None:
    """For the checker, whichever way it was asked for."""
    trial.outcome(told(7))
    trial.outcome(told(RunFailed("no")))
    trial.failure(told(RunCancelled("no")))
    trial.failure(told(RunLost("no")))

    assert trial.notes.seen == [Seen("it", "succeeded", 7), Seen("it", "failed"), Seen("it", "cancelled")]
    assert trial.notes.lost == {"it"}
