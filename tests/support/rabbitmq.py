"""Virtual hosts of a test's own on the RabbitMQ of this machine."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.clusters import RABBITMQ, answers


def control(*arguments: str) -> str:
    """What `rabbitmqctl` answers. Skips the test where it may not be used."""
    program = shutil.which("rabbitmqctl")
    if program is None or not answers(RABBITMQ):
        pytest.skip("no RabbitMQ that can be configured answers on this machine")
    done = subprocess.run([program, "-q", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode and arguments[0] == "add_vhost":
        pytest.skip(f"rabbitmqctl may not be used on this machine: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def virtual_host(*options: str, permitted: bool = True) -> Iterator[str]:
    """The URL of a virtual host.

    Args:
        options: of ``rabbitmqctl add_vhost``, such as ``--default-queue-type``, ``quorum``.
        permitted: whether the user may do anything there.
    """
    name = f"egdtest-{uuid.uuid4().hex[:8]}"
    control("add_vhost", name, *options)
    try:
        pattern = ".*" if permitted else "^$"
        control("set_permissions", "-p", name, "guest", pattern, pattern, pattern)
        yield f"amqp://guest:guest@127.0.0.1:{RABBITMQ[1]}/{name}"
    finally:
        control("delete_vhost", name)


def queue_types(url: str) -> dict[str, str]:
    """The type of each queue of a virtual host."""
    lines = control("list_queues", "--no-table-headers", "-p", url.rpartition("/")[2], "name", "type").splitlines()
    return dict(line.split("\t") for line in lines if "\t" in line)
