"""F9: a worker on a host of its own is cut off from the server: in both directions, in one, or by resets."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from time import monotonic

import pytest

from egregore_dist import Sequence, parallel
from tests.support import netns
from tests.support.netns import WAYS, Host, Way
from tests.support.nodes import ProcessContainer
from tests.support.trial import Trial
from tests.support.waiting import let_pass
from tests.support.work import anap, far_only, join, nap, quick

# A busy machine is slower than the product.
HEALED = 10.0 + 5.0
# Tells what comes over a connection that it has had, and how a new one ends.
ASK = """
import socket, sys

def told(act):
    try:
        return act()
    except OSError as error:
        return type(error).__name__

address = sys.argv[1], int(sys.argv[2])
had = socket.create_connection(address, timeout=1.0)
sys.stdin.readline()
print(told(lambda: had.send(b"x") and had.recv(1).decode()))
print(told(lambda: socket.create_connection(address, timeout=1.0) and "there"))
"""


def needs_hosts() -> None:
    """Skip where there can be no hosts."""
    if why := netns.missing():
        pytest.skip(why)


@pytest.fixture
def trial(trial_of: Callable[..., Trial]) -> Trial:
    """Two workers of one lane, and a server that other hosts can be let in to."""
    return trial_of(tcp=True)


@pytest.fixture
def host(trial: Trial) -> Host:
    """A namespace from which the trial's server can be reached."""
    needs_hosts()
    host = trial.enter(Host())
    trial.ledger.redis.config_set("bind", f"127.0.0.1 {host.address}")
    return host


@pytest.fixture
def far(trial: Trial, host: Host) -> ProcessContainer:
    """A worker on that host, beside two that are not."""
    assert trial.cluster.server is not None
    url = trial.cluster.server.tcp_url.replace("127.0.0.1", host.address)
    queues = [trial.cluster.settings.queue, "far"]
    return trial.add(before=host.prefix, env={"EGREGORE_BROKER_URL": url}, queues=queues)


@pytest.mark.parametrize(
    ("way", "here", "there"),
    [
        ("both", None, ["TimeoutError", "TimeoutError"]),
        ("in", None, ["y", "TimeoutError"]),
        ("out", b"x", ["TimeoutError", "TimeoutError"]),
        ("reset", None, ["ConnectionResetError", "ConnectionRefusedError"]),
    ],
)
def test_a_cut_is_what_it_says(way: Way, here: bytes | None, there: list[str]) -> None:
    """Packets are dropped in the directions that are said and in no other, or answered by a reset."""
    needs_hosts()
    with Host() as host, socket.create_server((host.address, 0)) as server:
        address, port = server.getsockname()
        command = [*host.prefix, sys.executable, "-c", ASK, address, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
            connection, _ = server.accept()
            with connection:
                host.cut(way)
                connection.send(b"y")
                told, _ = asking.communicate("go\n", timeout=30)
                assert told.split() == there
                connection.setblocking(False)
                assert received(connection) == here


def received(connection: socket.socket) -> bytes | None:
    """What has come, or None."""
    try:
        return connection.recv(1)
    except BlockingIOError:
        return None


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("way", "seconds"),
    [
        *[(way, 5) for way in WAYS],
        *[pytest.param(way, 30, marks=pytest.mark.long) for way in WAYS],
        *[pytest.param(way, 120, marks=pytest.mark.long) for way in WAYS],
    ],
)
def test_a_partition_heals(
    trial: Trial,
    host: Host,
    far: ProcessContainer,
    way: Way,
    seconds: int,
    figure: Callable[[str], None],
) -> None:
    """While a worker is cut off, the others do its work; ten seconds after the cut has healed it serves again."""
    runs = [
        trial.submit(Sequence(parallel(nap, anap, parallel(nap, quick, name="inner")), join), 0.2),
        trial.submit(Sequence(nap.map(), join), [0.1] * 60),
        trial.submit(anap.map(), [0.5] * 60),
    ]
    trial.wait_for(node="nap", pid=far.pid)
    began = monotonic()
    host.cut(way)
    block, limited, many = (trial.result(run) for run in runs)
    assert set(block) == {"nap", "anap", "inner"}
    assert set(block["inner"]) == {"nap", "quick"}
    assert (len(limited), len(many)) == (60, 60)
    let_pass(max(0.0, seconds - (monotonic() - began)))
    host.heal()
    took = trial.serves(far_only, within=HEALED)

    figure(f"{took:.1f} s from healing until the worker serves")
    assert far.status == "running"
