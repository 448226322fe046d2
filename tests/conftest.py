"""What every test has: no settings from outside, and one profile for the property tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from egregore_dist import LocalCluster
from egregore_dist.cli import hooks, redact
from egregore_dist.client import server
from tests.support.clusters import FAULTS, FAULTY, Clusters, brokers
from tests.support.figures import MEASURED, SEED
from tests.support.lengths import LONG

# No deadline: the machine is shared, and slowness of one example says nothing.
hypothesis.settings.register_profile("egregore", deadline=None, print_blob=True, max_examples=300 if LONG else 40)
# With --hypothesis-profile=few: for a second run of the same tests, on other versions.
hypothesis.settings.register_profile("few", deadline=None, print_blob=True, max_examples=5)
hypothesis.settings.load_profile("egregore")


def pytest_configure() -> None:
    """Heed Ctrl-C, whoever started the tests: in the background of a shell it is ignored, in what they start too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests on every broker that answers; those that are marked for it on a ledger whose calls fail, too."""
    marker = metafunc.definition.get_closest_marker("store_faults")
    is_marked = marker is not None and "unless" not in marker.kwargs
    if "broker" in metafunc.fixturenames:
        metafunc.parametrize("broker", [*brokers(), FAULTY] if is_marked else brokers(), indirect=True)
    if "local" in metafunc.fixturenames and is_marked:
        metafunc.parametrize("local", ["valkey", FAULTY], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long versions unless they are asked for."""
    left_out = [] if LONG else [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where tests run in several processes, hand on what the summary says of this one's."""
    handed = getattr(session.config, "workeroutput", None)
    if handed is not None:
        handed |= {"faults": dict(FAULTS), "measured": MEASURED}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes has ended."""
    handed = getattr(node, "workeroutput", {})
    FAULTS.update(handed.get("faults", {}))
    MEASURED.extend(handed.get("measured", []))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures, the seed that repeats them, and how often the store has failed under tests marked for it."""
    if MEASURED:
        terminalreporter.section(f"figures (EGREGORE_TEST_SEED={SEED})")
        for line in MEASURED:
            terminalreporter.line(line)
    if FAULTS:
        told = ", ".join(f"{count} {fault}" for fault, count in sorted(FAULTS.items()))
        terminalreporter.section(f"{FAULTS.total()} faults of the store")
        terminalreporter.line(told)


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    """Remove the developer's own ``EGREGORE_*`` variables, for fixtures of every scope."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("EGREGORE_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def _servers_of_the_extra() -> Iterator[None]:
    """Start the servers of tests from the extra, if it is there; programs that tests start prefer one on the PATH."""
    bundled = server._bundled()
    with pytest.MonkeyPatch.context() as patch:
        if bundled is not None:
            patch.setattr(server, "binary", lambda: bundled)
        yield


@pytest.fixture(autouse=True)
def _settings_stay_in_their_test(_no_settings_from_outside: None) -> Iterator[None]:
    """Take back the ``EGREGORE_*`` variables that the code under test has set."""
    before = {name: value for name, value in os.environ.items() if name.startswith("EGREGORE_")}
    yield
    for name in [name for name in os.environ if name.startswith("EGREGORE_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _secrets_stay_in_their_test() -> Iterator[None]:
    """Forget the secrets, and the hook, that the code under test was told to take out of all that is shown."""
    before = set(redact._known)
    yield
    redact._known.intersection_update(before)
    hooks.use(None)


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    """The shared clusters: for a test that needs a certain one."""
    running = Clusters()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _idle_clusters_are_stopped(clusters: Clusters) -> None:
    """Leave the machine to the tests that run."""
    clusters.stop_idle()


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> str:
    """What kind of cluster `cluster` is."""
    return str(request.param)


@pytest.fixture
def cluster(broker: str, clusters: Clusters) -> Iterator[LocalCluster]:
    """A running cluster of two workers, as what this process submits to; once for every broker that answers."""
    with clusters.use(broker) as running:
        yield running


@pytest.fixture
def local(request: pytest.FixtureRequest, clusters: Clusters) -> Iterator[LocalCluster]:
    """The running cluster on the embedded server, where the broker is not the subject. Do not kill its workers."""
    with clusters.use(getattr(request, "param", "valkey")) as running:
        yield running
