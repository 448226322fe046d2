"""A whole cluster with its monitor, as it is without settings: who can reach it, and what it tells of its secrets."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
from click.testing import CliRunner

from egregore_dist import LocalCluster, Run, node, parallel
from egregore_dist.cli import main
from egregore_dist.monitor import routes
from tests.cluster.test_monitor import monitor
from tests.support.waiting import until

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LISTENS = "0A"


def listening(pids: set[int]) -> dict[str, int]:
    """Where these processes listen, each with one that does, as the kernel tells."""
    inodes = {}
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
            except FileNotFoundError:
                continue
            if found:
                inodes[found[1]] = pid
    where = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[9] in inodes and (parts[3] == LISTENS or table.startswith("udp")):
                host, port = parts[1].split(":")
                raw = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
                where[f"{ipaddress.ip_address(raw)} {int(port, 16)}"] = inodes[parts[9]]
    return where


def is_loopback(where: str) -> bool:
    address = ipaddress.ip_address(where.split()[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def family() -> set[int]:
    """This process and all that it has started."""
    me = psutil.Process()
    return {me.pid, *(child.pid for child in me.children(recursive=True))}


@linux_only
def test_the_kernel_is_read_rightly() -> None:
    """A socket that others can reach is seen as one, so that none of a cluster would be missed."""
    with socket.create_server(("0.0.0.0", 0)) as every, socket.create_server(("127.0.0.1", 0)) as own:
        found = {int(where.split()[1]): is_loopback(where) for where in listening({os.getpid()})}

        assert found[every.getsockname()[1]] is False
        assert found[own.getsockname()[1]] is True


@linux_only
def test_s7_of_a_cluster_the_monitors_alone_have_ports_and_on_loopback(tmp_path: Path) -> None:
    """The embedded server, workers with their pools, and the monitors of a program and of the command listen there."""
    before = family()
    with LocalCluster(workers=2, concurrency=2) as cluster, monitor(cluster, tmp_path) as of_command:
        httpx.get(cluster.monitor_url, timeout=30)

        @node
        def one(data: int) -> int:
            return data

        parallel(one, one.alias("two"))(1)
        started = family() - before
        found = listening(started)

        ports = (httpx.URL(cluster.monitor_url).port, of_command.port)
        assert len(started) >= 7
        assert set(found) == {f"127.0.0.1 {port}" for port in ports}
        assert found[f"127.0.0.1 {of_command.port}"] == of_command.process.pid


# What is told


def everything(client: httpx.Client, run: str) -> Iterator[tuple[str, str]]:
    """Every page that can be got by GET, with what stands in the parts of paths; streams are left out."""
    parts = {"{run}": run, "{block}": "0.0-", "{branch}": "0", "{limit}": "model"}
    for route in routes.ROUTES:
        if route.method != "GET" or route.name.endswith("events"):
            continue
        path = route.path
        for part, value in parts.items():
            path = path.replace(part, value)
        for one in (path.replace("{what}", "input"), path.replace("{what}", "result")):
            answer = client.get(one)
            yield one, f"{answer.headers} {answer.text}"


@linux_only
def test_s15_secrets_are_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page, log, event, report, repr, traceback or process list has a secret of the settings."""
    signing = f"canary-{secrets.token_hex(16)}"
    monkeypatch.setenv("EGREGORE_SECRET", signing)
    data = tmp_path / "data"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said: dict[str, str] = {}
    with LocalCluster(workers=2, data_dir=data, loglevel="DEBUG") as cluster:
        server = cast(Any, cluster.server)
        password = re.findall(r":([^:@/]+)@", server.url)[0]

        @node
        def breaks(words: object) -> None:
            print(f"to be told: {os.environ['EGREGORE_BROKER_URL']}")
            raise ConnectionError(f"{os.environ['EGREGORE_BROKER_URL']}: no {os.environ['EGREGORE_SECRET']}")

        @node
        def dies(words: object) -> None:
            os.kill(os.getpid(), 9)

        run = parallel(breaks, dies, name="both", on_error="collect").submit(None, id="told")
        until(lambda: run.status in ("failed", "succeeded"), what="the end", seconds=60)
        bad = parallel(breaks, name="bad").submit(None, id="bad")
        until(lambda: bad.status == "failed", what="the end", seconds=60)

        token = httpx.URL(cluster.monitor_url).params["token"]
        said |= {f"{name} of {one.id}": text for one in (run, bad) for name, text in pages_of(cluster, one)}
        for command in COMMANDS:
            for wanted in ("told", "bad"):
                arguments = [part.replace("RUN", wanted) for part in command]
                result = CliRunner(env={"EGREGORE_BROKER_URL": cluster.url}).invoke(main, arguments)
                said[f"{' '.join(arguments)}"] = result.output + result.stderr
        said["reprs"] = " ".join(
            map(repr, (cluster, cluster.settings, cluster.workers, run, server, dict(vars(cluster)), run.report()))
        )
        said["events"] = " ".join(map(repr, [*run.events(), *bad.events()]))
        said["report"] = f"{run.report().markdown()} {run.report().html()} {run.report().as_dict()}"
        said["processes"] = " ".join(
            Path(f"/proc/{pid}/cmdline").read_text() for pid in family() if Path(f"/proc/{pid}/cmdline").exists()
        )
        for worker in cluster.workers:
            # What a node prints goes to its worker's own output too, as it is.
            lines = [line for line in worker.log.read_text().splitlines() if "to be told: " not in line]
            said[f"log of {worker.name}"] = "\n".join(lines)
        for log in tmp_path.rglob("monitor.log"):
            said[str(log)] = log.read_text(errors="replace")

    told = {where for where, text in said.items() for word in (signing, password, token) if word in text}
    assert told == set()
    assert "***" in said["/runs/bad of bad"]
    assert "***" in said["runs logs bad"]


def pages_of(cluster: LocalCluster, run: Run) -> Iterator[tuple[str, str]]:
    link = httpx.URL(cluster.monitor_url)
    with httpx.Client(base_url=f"http://{link.netloc.decode()}", timeout=30) as client:
        # Who opens the link is let in from then on.
        client.get(link, follow_redirects=True).raise_for_status()
        yield from everything(client, run.id)


COMMANDS = [
    *(["runs", "list"], ["runs", "show", "RUN"], ["runs", "show", "RUN", "--json", "--value"]),
    *(["runs", "logs", "RUN"], ["runs", "logs", "RUN", "--json"], ["runs", "watch", "RUN"], ["doctor"]),
    *(["runs", "report", "RUN"], ["runs", "report", "RUN", "--html", "-"], ["runs", "report", "RUN", "--json"]),
    *(["workers"], ["workers", "--json"], ["nodes"], ["limits", "list"], ["--debug", "runs", "watch", "RUN"]),
]
