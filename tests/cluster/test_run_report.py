"""The report of real runs, and the commands that look at what goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from egregore_dist import Context, LocalCluster, Run, RunNotFound, Sequence, node, parallel
from egregore_dist.cli import codes, main
from egregore_dist.client import session
from egregore_dist.client.events import Event
from egregore_dist.client.timeline import Timeline, read_on
from tests.cluster.test_cli import COMMAND, ROOT, environment
from tests.support.cli_flows import bad, double, flow, gated
from tests.support.waiting import until


def ask(local: LocalCluster, *arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner(env=environment(local)).invoke(main, arguments)


def read(local: LocalCluster, *arguments: str) -> Any:
    """What a command prints as JSON."""
    done = ask(local, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@node("heavy", retries=1, retry_delay=0.01)
def work(item: int, context: Context) -> int:
    """Take 0.1 s of CPU time, and 30 MB; the second one has to be called again."""
    held = b"x" * (30 * 2**20)
    limit = time.process_time() + 0.1
    while time.process_time() < limit:
        pass
    if (item, context.attempt) == (2, 1):
        raise ValueError(len(held))
    return item


heavy = work.map(name="heavy")


@node("shy", retries=3, retry_delay=0.2)
def shy(item: int, context: Context) -> int:
    """Take 0.1 s, and fail before the third call."""
    time.sleep(0.1)
    if context.attempt < 3:
        raise ValueError(item)
    return item


@node("coy", retries=3, retry_delay=0.2)
async def coy(item: int, context: Context) -> int:
    """The same on an event loop."""
    await asyncio.sleep(0.1)
    if context.attempt < 3:
        raise ValueError(item)
    return item


@node
def handed(data: object) -> object:
    """Hand on."""
    return data


@node
def inverse(number: int) -> float:
    """Divide by it."""
    return 1 / number


@node
def counted(data: list[object]) -> int:
    """How many there are."""
    return len(data)


@node
def short(milliseconds: int) -> int:
    """Take some milliseconds."""
    time.sleep(milliseconds / 1000)
    return milliseconds


@node
def slow(data: object) -> object:
    """Take half a second."""
    time.sleep(0.5)
    return data


def begin(gate: Path) -> Run:
    """A run that stands at a gate."""
    run = gated.submit(str(gate))
    until(Path(f"{gate}.reached").exists, what="the branch")
    return run


def test_a_report_from_another_handle(local: LocalCluster, tmp_path: Path) -> None:
    """Who knows the id has the report: with its nodes, workers and timeline, as text, dict and page."""
    run = flow.submit([1, 2, 3])
    assert run.result(timeout=30) == 12

    found = Run(run.id).report()

    assert (found.state, found.totals.branches, found.totals.ok, found.success_rate) == ("succeeded", 3, 3, 1.0)
    assert [(node.name, node.executions.ok) for node in found.nodes] == [("double", 3), ("total", 1)]
    assert {worker.name for worker in found.workers} <= {worker.name for worker in local.workers}
    assert sum(worker.executions.count for worker in found.workers) == found.executions.count == 3
    (link,) = (link for link in found.critical_path if link.block != "0")
    assert re.fullmatch("#[012]", link.branch or "")
    assert not found.partial
    assert json.loads(json.dumps(found.as_dict()))["blocks"][0]["name"] == "double"

    file = tmp_path / "report.html"
    assert ask(local, "runs", "report", run.id, "--html", str(file)).exit_code == 0
    assert "<svg" in file.read_text("utf-8")
    assert ask(local, "runs", "report", run.id).stdout.startswith(f"# Run {run.id}\n")
    assert read(local, "runs", "report", run.id).keys() == found.as_dict().keys()


def test_a_report_of_a_run_that_goes_on(local: LocalCluster, tmp_path: Path) -> None:
    """A run has a report while it goes on, and none where it is not there."""
    gate = tmp_path / "gate"
    run = begin(gate)

    found = run.report()
    gate.touch()

    assert (found.state, found.ended, found.totals.open, found.success_rate) == ("running", None, 1, None)
    assert found.executions.running == 1
    assert "<svg" in found.html()
    with pytest.raises(RunNotFound):
        Run("absent").report()
    run.result(timeout=30)


def test_a_report_after_a_retry(local: LocalCluster, tmp_path: Path) -> None:
    """What a retry kept is told, and what ran again has the executions of both times."""
    gate = tmp_path / "gate"
    run = begin(gate)
    run.cancel()
    gate.touch()
    run.retry()
    run.result(timeout=30)

    found = run.report()

    assert (found.retries.count, found.retries.kept) == (1, 0)
    assert (found.executions.stopped, found.executions.ok, found.success_rate) == (1, 1, 1.0)
    assert [block.opened for block in found.blocks] == [1]


@pytest.mark.parametrize(
    ("flow", "branches"),
    [
        (Sequence(handed, shy.map(name="each")), 2),
        (Sequence(handed, coy.map(name="each")), 2),
        (Sequence(handed, Sequence(shy, parallel(handed, inverse)).map(name="each")), 2),
    ],
    ids=["one by one", "of many", "before a block"],
)
def test_calls_that_failed_are_told(local: LocalCluster, flow: Any, branches: int) -> None:
    """A node that was called three times has three executions, each with its time, and waited between them."""
    run = flow.submit([1, 2])
    run.result(timeout=60)
    found, timeline = run.report(), Timeline()
    read_on(session.current().ledger, run.id, timeline)

    (name,) = {each.name for each in found.nodes} & {"shy", "coy"}
    (its,) = (each.executions for each in found.nodes if each.name == name)
    assert (its.failed, its.ok) == (2 * branches, branches)
    for branch in range(branches):
        parts = timeline.attempts["0.0-1", branch]
        assert [(part.how, part.number, part.node) for part in parts] == [
            ("error", 1, name),
            ("error", 2, name),
            ("ok", 3, ""),
        ]
        for part, later in itertools.pairwise(parts):
            assert part.end is not None
            assert 0.09 <= part.end - part.start < 1
            assert 0.19 <= later.start - part.end < 2


def test_what_branches_took(local: LocalCluster) -> None:
    """CPU time and memory are told of each branch that was measured, of its calls that failed too, and of the whole."""
    run = heavy.submit([1, 2])
    run.result(timeout=60)
    found = run.report()
    (ended,) = ({**event.attempts} for event in run.events() if event.type == "branches.ended" and 1 in event.branches)
    timeline = Timeline()
    read_on(session.current().ledger, run.id, timeline)
    first, second = (timeline.attempts["0.0-", branch][-1] for branch in (0, 1))

    assert ended == {1: 2}
    assert (first.number, second.number) == (1, 2)
    assert first.spent is not None
    assert second.spent is not None
    assert first.spent.cpu is not None
    assert second.spent.cpu is not None
    assert 0.1 <= first.spent.cpu < 0.19
    # Both of its calls.
    assert second.spent.cpu >= 0.2
    assert first.spent.memory is not None
    assert second.spent.memory is not None
    assert first.spent.memory > 20 * 2**20
    assert first.size == second.size == 1
    (told,) = found.nodes
    assert (told.executions.measured, told.executions.memory) == (2, max(first.spent.memory, second.spent.memory))
    assert found.executions.cpu == pytest.approx(first.spent.cpu + second.spent.cpu)
    assert found.critical_path[0].cpu in (first.spent.cpu, second.spent.cpu)
    assert "in the 2 that were measured" in found.markdown()


def test_branches_that_were_leased_together_have_their_own_times(local: LocalCluster) -> None:
    """In the report they took no longer than workers were busy, and in the timeline no process is at two of them."""
    run = Sequence(short.map(), name="shorts").submit([3] * 150)
    run.result(timeout=60)
    found = run.report()
    timeline = Timeline()
    read_on(session.current().ledger, run.id, timeline)
    spans = [attempts[-1] for (block, _), attempts in timeline.attempts.items() if block != "0"]

    assert found.executions.together > 100
    durations = found.executions.durations
    assert durations.count == 150
    assert (durations.min or 0.0) >= 0.003
    assert durations.total <= sum(worker.busy for worker in found.workers) + 0.001
    assert [node.executions.durations for node in found.nodes if node.name == "short"] == [durations]
    assert found.blocks[0].executions.durations == durations
    # A worker of the cluster has one process.
    for worker in {span.worker for span in spans}:
        ordered = sorted((span.start, span.end or 0.0) for span in spans if span.worker == worker)
        assert all(end <= start + 0.002 for (_, end), (start, _) in itertools.pairwise(ordered))


def test_every_node_that_ran_is_in_the_report(local: LocalCluster) -> None:
    """Nodes beside a block, and those that are a part of a branch, with the one that it failed at."""
    shares = Sequence(handed, inverse, name="shares").map(on_error="collect", name="shares")
    run = Sequence(handed.alias("given"), shares, counted, name="whole").submit([1, 0, 2])
    assert run.result(timeout=30) == 3

    found = {node.name: node for node in run.report().nodes}

    assert {name: (node.executions.ok, node.executions.failed) for name, node in found.items()} == {
        "given": (1, 0),
        "handed": (3, 0),
        "inverse": (2, 1),
        "counted": (1, 0),
    }
    assert found["inverse"].steps == 3
    assert found["inverse"].executions.durations.count == 0


@pytest.mark.parametrize("nested", [False, True], ids=["of the run", "of a branch"])
def test_a_slow_node_behind_a_block(local: LocalCluster, nested: bool) -> None:
    """It keeps its worker busy, the end waited for it, and it has a bar; and not while it waits for the block."""
    steps = Sequence(parallel(short.alias("quick"), handed, name="both"), slow, name="whole")
    run = (parallel(steps, handed, name="outer") if nested else steps).submit(20)
    run.result(timeout=60)

    found = run.report()

    last = found.critical_path[-1]
    assert (last.block, last.nodes) == ("0.0-" if nested else "0", ("slow",))
    assert 0.5 <= last.ran < found.ran
    assert found.critical_path[-2].name == "both"
    assert max(worker.busy for worker in found.workers) >= 0.5
    assert {worker.name: worker.busy for worker in found.workers}[str(last.worker)] >= 0.5
    assert sum(worker.busy for worker in found.workers) <= len(local.workers) * found.ran
    row = [last.branch, last.worker]
    assert found.parts.max == pytest.approx(last.ran)
    bars = re.findall(r"<title>([^<]*): ok on ([^<]*), ([0-9.]+) (m?s)</title>", found.timeline)
    took = [float(time) * (0.001 if unit == "ms" else 1) for name, *on, time, unit in bars if [name, *on] == row]
    assert max(took) == pytest.approx(last.ran, abs=0.06)
    assert f"<title>{last.branch}: waited for both, " in found.timeline


def test_watching_event_by_event(local: LocalCluster) -> None:
    """On a pipe each event is a line, and a JSON object with ``--json``; who watches a failed run ends with 1."""
    run = flow.submit([1, 2])
    text = ask(local, "runs", "watch", run.id)
    said = [json.loads(line) for line in ask(local, "runs", "watch", run.id, "--json").stdout.splitlines()]

    assert text.exit_code == 0
    assert [entry["type"] for entry in said] == [event.type for event in run.events()]
    assert len(text.stdout.splitlines()) == len(said)
    assert (said[0]["type"], said[-1]["type"]) == ("run.submitted", "run.ended")
    assert "branches.ended  double  branches" in text.stdout

    for seen in range(1, len(said)):
        rest = ask(local, "runs", "watch", run.id, "--after", said[seen - 1]["cursor"], "--json")
        assert [json.loads(line) for line in rest.stdout.splitlines()] == said[seen:]
    wrong = ask(local, "runs", "watch", run.id, "--after", "yesterday")
    assert "'yesterday' is not the cursor of an event" in wrong.stderr

    failed = ask(local, "runs", "watch", bad.submit(3).id)
    assert failed.exit_code == codes.FAILED
    assert failed.stdout.splitlines()[-1].endswith("run.ended  state failed")
    assert failed.stderr.splitlines()[-1].endswith("ValueError: first line")


def test_watching_loses_nothing_with_the_connection(local: LocalCluster, tmp_path: Path) -> None:
    """A connection that is cut while it waits is made again, and each event comes once."""
    gate = tmp_path / "gate"
    run = begin(gate)
    seen: list[Event] = []
    watching = threading.Thread(target=lambda: seen.extend(run.events()))
    with redis.Redis.from_url(local.url) as server:

        def waits() -> set[str]:
            return {client["id"] for client in server.client_list() if client["cmd"] == "xread"}

        watching.start()
        until(waits, what="the wait for events")
        cut = waits()
        for id in cut:
            server.client_kill_filter(_id=id)
        until(lambda: waits() - cut, what="the wait on another connection")
    gate.touch()
    watching.join(30)

    assert [event.cursor for event in seen] == [event.cursor for event in run.events(follow=False)]
    assert seen[-1].type == "run.ended"


def interrupted(local: LocalCluster, *arguments: str, shows: str) -> tuple[int, str, str]:
    """Run a command on a terminal until that shows something, and then press Ctrl-C.

    Returns:
        Its exit code, what the terminal got, and its standard error.
    """
    ours, theirs = pty.openpty()
    env = {**environment(local), "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env=env, stdout=theirs, stderr=subprocess.PIPE, text=True
    ) as command:
        os.close(theirs)
        screen = b""
        try:
            while shows.encode() not in screen:
                screen += os.read(ours, 4096)
            command.send_signal(signal.SIGINT)
            while more := os.read(ours, 4096):
                screen += more
        except OSError:
            pass  # The other end is closed.
        _, said = command.communicate(timeout=30)
    os.close(ours)
    return command.returncode, screen.decode(errors="replace"), said


def test_watching_on_a_terminal(local: LocalCluster, tmp_path: Path) -> None:
    """On a terminal there is a tree; Ctrl-C ends it, says that the run goes on, and the run does."""
    gate = tmp_path / "gate"
    run = begin(gate)

    code, screen, said = interrupted(local, "runs", "watch", run.id, shows="0/1")
    after = run.status
    gate.touch()

    assert (code, after) == (codes.INTERRUPTED, "running")
    assert "gated" in screen
    assert f"run {run.id} goes on" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert run.result(timeout=30) == {"gate": "open"}


def test_top_on_a_terminal(local: LocalCluster) -> None:
    """On a terminal it looks again and again; Ctrl-C is how one leaves it, and no error."""
    code, screen, said = interrupted(local, "top", "--every", "0.1", shows=local.workers[0].name)

    assert (code, said) == (0, "")
    assert "slots busy" in screen


def test_a_report_has_one_form(local: LocalCluster, tmp_path: Path) -> None:
    """Two forms at once, and a file that cannot be written, end with 2 and a line that says so."""
    run = flow.submit([1])
    both = ask(local, "runs", "report", run.id, "--json", "--html", "-")
    nowhere = ask(local, "runs", "report", run.id, "--html", str(tmp_path / "no" / "page.html"))
    page = ask(local, "runs", "report", run.id, "--html", "-")

    assert (both.exit_code, nowhere.exit_code, page.exit_code) == (codes.USAGE, codes.USAGE, 0)
    assert "exclude each other" in both.stderr
    assert "cannot be written: No such file" in nowhere.stderr
    assert page.stdout.startswith("<!doctype html>")


def test_nodes(local: LocalCluster) -> None:
    """What was learned of a node is listed under its name and its function."""
    flow.run([1, 2, 3])
    known: dict[str, Any] = {}

    def learned() -> bool:
        known.update({entry["function"]: entry for entry in read(local, "nodes")["nodes"]})
        return "tests.support.cli_flows:double" in known

    until(learned, what="the profile")
    found = known["tests.support.cli_flows:double"]
    assert found.keys() == {
        *("names", "function", "executions", "wall", "cpu", "memory", "result", "reserved", "learned", "advice")
    }
    assert "double" in found["names"]
    assert found["executions"] > 0
    assert found["wall"].keys() == {"mean", "p50", "p95"}
    assert "tests.support.cli_flows:double" in ask(local, "nodes").stdout


def test_nodes_of_many_names(local: LocalCluster) -> None:
    """A function that many nodes call is one row, and what is known of it can be read."""
    parallel(*(double.alias(f"double_under_another_name_{at:02}") for at in range(40))).run(1)
    name = "tests.support.cli_flows:double"
    until(lambda: name in {known["function"] for known in read(local, "nodes")["nodes"]}, what="the profile")

    said = CliRunner(env={**environment(local), "COLUMNS": "200"}).invoke(main, ["nodes"]).stdout
    rows = [line.split() for line in said.splitlines() if name in line]
    assert [row[1].isdigit() for row in rows] == [True], said


def test_top(local: LocalCluster, tmp_path: Path) -> None:
    """The workers with their busy slots, the open runs with how far they are, and the backlog."""
    gate, name = tmp_path / "gate", uuid.uuid4().hex
    run = gated.submit(str(gate), id=name)

    def begun() -> bool:
        found = read(local, "top")
        return found["busy"] >= 1 and ("gated", name) in {(entry["block"], entry["id"]) for entry in found["runs"]}

    until(begun, what="a busy slot, and the run at its block")

    said = read(local, "top")
    text = ask(local, "top", "--once")
    gate.touch()
    run.result(timeout=30)

    assert said.keys() == {"at", "workers", "slots", "busy", "open", "runs", "backlog"}
    assert {worker["name"] for worker in said["workers"]} >= {worker.name for worker in local.workers}
    (shown,) = (entry for entry in said["runs"] if entry["id"] == name)
    assert (shown["state"], shown["block"], shown["branches"], shown["done"]) == ("running", "gated", 1, 0)
    assert said["backlog"].keys() == {"blocks", "waiting", "running", "late"}
    assert text.exit_code == 0
    assert name in text.stdout
