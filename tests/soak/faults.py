"""The soak's faults: each is done, and undone, while runs go on."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import redis

from tests.support import netns
from tests.support.netns import WAYS, Host
from tests.support.nodes import ProcessContainer
from tests.support.trial import TTL, Trial


class Faults:
    """What can go wrong with a trial. The first worker is spared what ends it, so that its memory can be followed.

    Args:
        host: where one of its workers runs, or None where there can be no hosts.
    """

    def __init__(self, trial: Trial, rng: random.Random, host: Host | None) -> None:
        self._trial = trial
        self._rng = rng
        self._host = host
        self.kinds: dict[str, Callable[[], None]] = {
            "F1 a pool process is killed": self.kill_child,
            "F2 a worker is killed": self.kill_worker,
            "F5 the server is killed": self.kill_server,
            "F7 the server stands still": self.stop_server,
            "F8 a worker stands still": self.stop_worker,
            "F12 messages come twice": self.repeat_messages,
        }
        if host is not None:
            self.kinds["F9 a worker is cut off"] = self.cut_off

    def any(self) -> str:
        """Do one of them; returns which."""
        kind = self._rng.choice(list(self.kinds))
        self.kinds[kind]()
        return kind

    def kill_child(self) -> None:
        found = [pid for node in self._trial.nodes for pid in children(node)]
        if found:
            _signal(self._rng.choice(found), signal.SIGKILL)

    def kill_worker(self) -> None:
        node = self._rng.choice(self._trial.nodes[1:])
        self._trial.kill(node)
        time.sleep(self._rng.uniform(0, 5))
        # Nobody withdraws its report: it is dead when that says so.
        node.start()

    def kill_server(self) -> None:
        server = self._trial.cluster.server
        assert server is not None
        server.kill()
        time.sleep(self._rng.uniform(0, 2))
        server.restart()
        if self._host is not None:
            listen_to(self._trial, self._host)

    def stop_server(self) -> None:
        server = self._trial.cluster.server
        assert server is not None
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(self._rng.uniform(0.5, 5))
        os.kill(server.pid, signal.SIGCONT)

    def stop_worker(self) -> None:
        node = self._rng.choice(self._trial.nodes[1:])
        node.pause()
        time.sleep(self._rng.uniform(0.5, 2 * TTL))
        node.unpause()

    def cut_off(self) -> None:
        assert self._host is not None
        self._host.cut(self._rng.choice(WAYS))
        time.sleep(self._rng.uniform(0.5, 5 * TTL))
        self._host.heal()

    def repeat_messages(self) -> None:
        server: redis.Redis = self._trial.ledger.redis
        queue = self._trial.cluster.settings.queue
        raws = [*server.lrange(queue, 0, -1), *(_taken(raw) for raw in server.hvals("unacked"))]
        for raw in raws[:20]:
            for _ in range(self._rng.choice([1, 2, 5])):
                server.lpush(queue, raw)


def add_far(trial: Trial) -> Host | None:
    """Start one more worker, on a host of its own; None where there can be none."""
    if why := netns.missing():
        print(f"no worker is cut off (F9): {why}", flush=True)
        return None
    host = trial.enter(Host())
    listen_to(trial, host)
    assert trial.cluster.server is not None
    url = trial.cluster.server.tcp_url.replace("127.0.0.1", host.address)
    trial.add(before=host.prefix, env={"EGREGORE_BROKER_URL": url})
    return host


def listen_to(trial: Trial, host: Host) -> None:
    """Have the trial's server listen to a host, which it forgets when it is started anew."""
    trial.ledger.redis.config_set("bind", f"127.0.0.1 {host.address}")


def _taken(raw: bytes) -> bytes:
    return json.dumps(json.loads(raw)[0]).encode()


def children(node: ProcessContainer) -> list[int]:
    """The processes of a worker's pool."""
    try:
        return [int(pid) for pid in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()]
    except OSError:
        return []


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
