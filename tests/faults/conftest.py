"""Fault tests: a printed seed, clusters that are checked before they stop, figures in the summary."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import watching
from tests.support.figures import MEASURED, SEED
from tests.support.lengths import LONG
from tests.support.trial import Trial

_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """What this test's randomness comes from."""
    seed = f"{SEED}/{request.node.name}"
    print(f"EGREGORE_TEST_SEED={SEED}")
    return seed


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether to run the long version, which CI has no time for."""
    return LONG


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Puts a measured figure into the summary."""

    def note(text: str) -> None:
        MEASURED.append(f"{request.node.name}: {text}")

    return note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the fixtures of a test know whether it failed."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(scope="module", autouse=True)
def every_cluster_is_checked() -> Iterator[None]:
    """Check every cluster before it stops, see `watching`; a `Trial` is checked with all that it knows."""
    with watching.every_cluster():
        yield


@pytest.fixture
def trial_of(request: pytest.FixtureRequest, seed: str) -> Iterator[Callable[..., Trial]]:
    """Starts a `Trial`, which is stopped and checked when the test ends."""
    trials: list[Trial] = []
    with ExitStack() as stack:

        def start(**options: Any) -> Trial:
            trials.append(stack.enter_context(Trial(seed=seed, **options)))
            return trials[-1]

        yield start
        for trial in trials:
            trial.failed = request.node.stash.get(_FAILED, False)


@pytest.fixture
def trial(trial_of: Callable[..., Trial]) -> Trial:
    """Two workers of one lane."""
    return trial_of()
