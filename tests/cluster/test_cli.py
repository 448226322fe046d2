"""The command line as a process of its own, against real workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from egregore_dist import LocalCluster, Run
from egregore_dist.cli import codes, main
from egregore_dist.client import session
from tests.cluster.log_flows import both, held
from tests.support.remains import remains
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
FLOWS = "tests.support.cli_flows"
COMMAND = [sys.executable, "-m", "egregore_dist"]


def environment(cluster: LocalCluster) -> dict[str, str]:
    """What a user of this cluster has set."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}
    settings = cluster.settings
    assert settings.secret is not None
    return found | {
        "EGREGORE_BROKER_URL": cluster.url,
        "EGREGORE_SECRET": settings.secret.get_secret_value(),
        "EGREGORE_QUEUE": settings.queue,
        "EGREGORE_PREFIX": settings.prefix,
    }


def call(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=dict(env), capture_output=True, text=True, timeout=60, check=False
    )


def ask(*arguments: str, env: Mapping[str, str]) -> Result:
    """The same in this process: quicker."""
    return CliRunner(env=dict(env)).invoke(main, arguments)


def read(*arguments: str, env: Mapping[str, str]) -> Any:
    """What a command prints as JSON."""
    done = ask(*arguments, "--json", env=env)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def one_line(done: subprocess.CompletedProcess[str] | Result) -> str:
    """The last line of standard error, seen to be no traceback."""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_run_prints_the_value(local: LocalCluster) -> None:
    """``run`` prints the value alone on standard output, and where to look at the run beside it."""
    name = uuid.uuid4().hex

    done = call("run", f"{FLOWS}:flow", "--input", "[1, 2, 3]", "--id", name, env=environment(local))

    assert (done.returncode, json.loads(done.stdout)) == (0, 12)
    assert f"runs show {name}" in done.stderr
    other = ask("run", f"{FLOWS}:flow", "--input", "[1]", "--id", name, env=environment(local))
    assert (other.exit_code, other.stdout) == (codes.USAGE, "")
    assert f"run '{name}' exists already, with another input" in one_line(other)


def test_run_reads_its_input_from_a_file(local: LocalCluster, tmp_path: Path) -> None:
    """``--input @FILE`` reads a file; with ``--json`` the run is told beside its value."""
    file = tmp_path / "input.json"
    file.write_text("[4]")

    said = read("run", f"{FLOWS}:flow", "--input", f"@{file}", env=environment(local))

    assert said.keys() == {"id", "workflow", "state", "seconds", "value", "error"}
    assert (said["workflow"], said["state"], said["value"], said["error"]) == ("doubles", "succeeded", 8, None)


def test_a_run_that_fails(local: LocalCluster) -> None:
    """A failed run ends with 1, one line on standard error, and its error in the JSON."""
    done = call("run", f"{FLOWS}:bad", "--input", "3", "--json", env=environment(local))

    said = json.loads(done.stdout)
    assert done.returncode == codes.FAILED
    assert one_line(done).endswith("ValueError: first line")
    assert said["state"] == "failed"
    assert said["error"].keys() == {"kind", "message", "block", "branch", "node", "traceback"}
    assert (said["error"]["block"], said["error"]["branch"]) == ("pair", "failing")
    assert "raise ValueError" in said["error"]["traceback"]


def test_debug_shows_the_traceback(local: LocalCluster) -> None:
    """``--debug`` shows the traceback, that of the worker too."""
    done = ask("--debug", "run", f"{FLOWS}:bad", "--input", "3", env=environment(local))

    assert done.exit_code == codes.FAILED
    assert "On the worker:" in done.stderr
    assert "Traceback (most recent call last)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing",), "write MODULE:WORKFLOW"),
        (("no_such_module:flow",), "no module 'no_such_module'"),
        ((f"{FLOWS}:absent",), "it has bad, double"),
        ((f"{FLOWS}:NUMBER",), "is no workflow but int"),
        (("flows.py:flow",), "flows:flow"),
        ((f"{FLOWS}:flow", "--input", "{"), "not JSON"),
        ((f"{FLOWS}:flow", "--input", "@/no/such/file"), "No such file"),
        ((f"{FLOWS}:flow", "--id", "a b"), "run id 'a b'"),
    ],
)
def test_wrong_use_of_run(local: LocalCluster, arguments: tuple[str, ...], says: str) -> None:
    """What a user got wrong ends with 2 and a line that says what to do."""
    done = ask("run", *arguments, env=environment(local))

    assert (done.exit_code, done.stdout) == (codes.USAGE, "")
    assert says in one_line(done)


@pytest.mark.parametrize("code", ["0", "'gone'"])
def test_a_module_that_exits_is_wrong_use(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """A module that ends the program when it is imported has no workflow to run, whatever it exits with."""
    name = f"exits_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(f"import sys\nsys.exit({code})\n")
    monkeypatch.syspath_prepend(tmp_path)
    done = ask("run", f"{name}:flow", env=environment(local))

    assert (done.exit_code, done.stdout) == (codes.USAGE, "")
    assert f"module '{name}' cannot be imported: SystemExit" in one_line(done)


def test_no_wait_and_timeout_leave_the_run_going(local: LocalCluster, tmp_path: Path) -> None:
    """``--no-wait`` prints the id and ends; ``--timeout`` ends with 5, and the run goes on."""
    gate, name = tmp_path / "gate", uuid.uuid4().hex
    submit = ("run", f"{FLOWS}:gated", "--input", json.dumps(str(gate)), "--id", name)

    first = ask(*submit, "--no-wait", env=environment(local))
    second = ask(*submit, "--timeout", "0.2", env=environment(local))
    gate.touch()

    assert (first.exit_code, first.stdout.strip()) == (0, name)
    assert second.exit_code == codes.TIMEOUT
    assert f"run {name} goes on" in one_line(second)
    assert Run(name).result(timeout=30) == {"gate": "open"}


@pytest.mark.parametrize("option", [("--no-wait",), ("--timeout", "4")], ids=["no-wait", "timeout"])
def test_a_run_that_no_worker_serves_says_so(local: LocalCluster, option: tuple[str, ...]) -> None:
    """Once, at once, whether the command waits or not: no worker of the queue is alive."""
    name = uuid.uuid4().hex
    env = environment(local) | {"EGREGORE_QUEUE": f"nobody-{name}"}

    done = ask("run", f"{FLOWS}:flow", "--input", "[1]", "--id", name, *option, env=env)

    told = f"egregore-dist: run {name} waits: doubles: no live worker serves queue 'nobody-{name}'"
    assert done.stderr.count("no live worker serves") == 1
    assert told in done.stderr
    assert f"worker -q nobody-{name}" in done.stderr
    assert Run(name).cancel() == "cancelled"


def test_an_interrupt_leaves_the_run_going(local: LocalCluster, tmp_path: Path) -> None:
    """Ctrl-C ends the waiting with 130 and names the run, which goes on."""
    gate, name = tmp_path / "gate", uuid.uuid4().hex
    arguments = [*COMMAND, "run", f"{FLOWS}:gated", "--input", json.dumps(str(gate)), "--id", name]
    ledger = session.current().ledger

    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment(local), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        until(lambda: ledger.exists(name) and ledger.run(name).state == "running", what="the run")
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=30)
    after = Run(name).status
    gate.touch()

    assert (waiting.returncode, out, after) == (codes.INTERRUPTED, "", "running")
    assert f"run {name} goes on" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert Run(name).result(timeout=30) == {"gate": "open"}


def test_looking_at_runs(local: LocalCluster, tmp_path: Path) -> None:
    """``runs list``, ``show`` and ``cancel`` tell and end a run; what they print as JSON has the documented keys."""
    gate, going, failed = tmp_path / "gate", uuid.uuid4().hex, uuid.uuid4().hex
    env, times = environment(local), {"id", "workflow", "state", "created", "started", "ended", "seconds"}
    ledger = session.current().ledger
    ask("run", f"{FLOWS}:bad", "--input", "3", "--id", failed, env=env)
    ask("run", f"{FLOWS}:gated", "--input", json.dumps(str(gate)), "--id", going, "--no-wait", env=env)
    until(lambda: any(block.running for block in ledger.blocks(going)[1:]), what="the branch")

    newest = read("runs", "list", "--limit", "2", env=env)["runs"]
    of_state = read("runs", "list", "--state", "failed", "--limit", "500", env=env)["runs"]
    shown = read("runs", "show", going, env=env)
    error = read("runs", "show", failed, env=env)["error"]
    text = ask("runs", "show", failed, env=env).stdout
    cancelled = ask("runs", "cancel", going, env=env)

    assert [run["id"] for run in newest] == [going, failed]
    assert newest[0].keys() == times
    assert failed in {run["id"] for run in of_state}
    assert {run["state"] for run in of_state} == {"failed"}
    assert shown.keys() == times | {"blocks", "error", "value", "why"}
    assert shown["why"] == []
    (block,) = shown["blocks"]
    assert (block["name"], block["state"], block["branches"], block["done"]) == ("gated", "open", 1, 0)
    assert block["running"] == ["gate"]
    assert error["branch"] == "failing"
    assert "branch 'failing' of block 'pair' failed" in text
    assert text.endswith(f"on the worker:\n{error['traceback'].rstrip()}\n")
    assert "raise ValueError" in text
    assert cancelled.stdout == f"run {going}: cancelled\n"
    assert Run(going).status == "cancelled"


def test_why_a_run_waits(local: LocalCluster, tmp_path: Path) -> None:
    """``runs show`` says why a run waits, in a section of its own and in the JSON; of one that has ended nothing."""
    gate, name = tmp_path / "gate", uuid.uuid4().hex
    env = environment(local)
    ask("run", f"{FLOWS}:gated", "--input", json.dumps(str(gate)), "--id", name, "--no-wait", env=env)
    until(lambda: Run(name).status == "running", what="the run")
    Run(name).pause()

    (reason,) = read("runs", "show", name, env=env)["why"]
    text = ask("runs", "show", name, env=env).stdout
    gate.touch()
    Run(name).resume()
    Run(name).result(timeout=30)

    assert reason.keys() == {"kind", "block", "name", "branch", "text", "numbers", "names"}
    assert (reason["kind"], reason["block"], reason["branch"], reason["names"]) == ("paused", None, None, [])
    assert reason["numbers"].keys() == {"seconds", "waiting"}
    assert "why it waits:\n- the run is paused, for " in text
    assert read("runs", "show", name, env=env)["why"] == []
    assert "why it waits" not in ask("runs", "show", name, env=env).stdout


def test_a_run_is_paused_resumed_and_retried(local: LocalCluster, tmp_path: Path) -> None:
    """``runs pause``, ``resume`` and ``retry`` change a run and tell its state; what does not apply changes nothing."""
    gate, name = tmp_path / "gate", uuid.uuid4().hex
    env = environment(local)
    ask("run", f"{FLOWS}:gated", "--input", json.dumps(str(gate)), "--id", name, "--no-wait", env=env)
    until(lambda: Run(name).status == "running", what="the run")

    said = [ask("runs", verb, name, env=env).stdout for verb in ("resume", "retry", "pause", "pause")]
    assert said == [
        f"run {name} stays as it was: running\n",
        f"run {name} stays as it was: running\n",
        f"run {name}: paused\n",
        f"run {name} stays as it was: paused\n",
    ]
    assert name in {run["id"] for run in read("runs", "list", "--state", "paused", env=env)["runs"]}
    assert read("runs", "resume", name, env=env) == {"id": name, "state": "running"}
    ask("runs", "cancel", name, env=env)
    assert ask("runs", "pause", name, env=env).stdout == f"run {name} had ended before: cancelled\n"
    gate.touch()
    assert read("runs", "retry", name, env=env)["state"] in ("running", "succeeded")
    assert Run(name).result(timeout=30) == {"gate": "open"}


def test_a_run_that_fails_again_was_retried(local: LocalCluster) -> None:
    """Its state may be what it was before, and it is said all the same that it ran."""
    env, name = environment(local), uuid.uuid4().hex
    ask("run", f"{FLOWS}:bad", "--input", "1", "--id", name, env=env)
    said = ask("runs", "retry", name, env=env).stdout

    assert re.fullmatch(rf"run {name} was retried: (running|failed)\n", said)


def test_logs(local: LocalCluster) -> None:
    """``runs logs`` prints a line for each that the nodes said, or an object, of those that are asked for."""
    env = environment(local)
    run = both.submit("x")
    run.result(timeout=60)

    lines = ask("runs", "logs", run.id, env=env).stdout.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}  INFO      pair/talks  printed x", lines[0])
    assert "WARNING   pair/talks  complained" in lines[1]
    assert "    ValueError: of old" in lines
    said = [json.loads(line) for line in ask("runs", "logs", run.id, "--json", env=env).stdout.splitlines()]
    keys = {"cursor", "time", "worker", "block", "block_name", "branch", "branch_name", "attempt", "node", "source"}
    assert {frozenset(line) for line in said} == {frozenset({*keys, "level", "text", "dropped"})}
    assert [line["text"] for line in said[:3]] == ["printed x", "complained", "noted x"]
    only = ("--block", "pair", "--branch", "0", "--node", "talks", "--level", "error")
    (one,) = ask("runs", "logs", run.id, "--json", *only, env=env).stdout.splitlines()
    assert json.loads(one)["level"] == "ERROR"
    none = ask("runs", "logs", run.id, "--branch", "silent", env=env)
    assert (none.stdout, none.stderr) == ("", "no lines\n")
    none = ask("runs", "logs", run.id, "--branch", "silent", "--json", env=env)
    assert (none.stdout, none.stderr) == ("", "")


def test_logs_are_followed(local: LocalCluster, tmp_path: Path) -> None:
    """``runs logs -f`` prints lines as they are said and ends with the run; what a terminal would obey is shown."""
    gate = tmp_path / "gate"
    run = held.submit(str(gate))
    command = [*COMMAND, "runs", "logs", "--follow", run.id]
    env = {**environment(local), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert "gates/holds  before" in following.stdout.readline()
        gate.touch()
        rest, _ = following.communicate(timeout=60)

    assert following.returncode == 0
    assert "<script>alert(1)</script> \\x1b[31mred\\x07" in rest
    assert "\x1b" not in rest


def test_show_with_the_value(local: LocalCluster) -> None:
    """``runs show --value`` prints the value of a run too."""
    name = uuid.uuid4().hex
    env = environment(local)
    ask("run", f"{FLOWS}:flow", "--input", "[5]", "--id", name, env=env)

    assert read("runs", "show", name, "--value", env=env)["value"] == 10


@pytest.mark.parametrize("verb", ["show", "report", "watch", "logs", "cancel", "pause", "resume", "retry"])
def test_a_run_that_is_not_there(local: LocalCluster, verb: str) -> None:
    """A run that is not there ends with 4."""
    done = ask("runs", verb, "absent", env=environment(local))

    assert done.exit_code == codes.NOT_FOUND
    assert "no run 'absent'" in one_line(done)


def test_a_run_is_found_by_the_first_letters_of_its_id(local: LocalCluster) -> None:
    """Six letters or more stand for an id where only one begins so; a whole id is never taken for a part of others."""
    env = environment(local)
    start = uuid.uuid4().hex[:12]
    for name in (start, f"{start}-one", f"{start}-two"):
        ask("run", f"{FLOWS}:flow", "--input", "[5]", "--id", name, env=env)

    several = ask("runs", "cancel", start[:8], env=env)
    assert several.exit_code == codes.USAGE
    assert all(name in one_line(several) for name in (start, f"{start}-one", f"{start}-two"))
    assert read("runs", "show", start, env=env)["id"] == start
    for verb in ("show", "report", "cancel", "pause", "resume", "retry"):
        assert read("runs", verb, f"{start}-o", env=env)["id"] == f"{start}-one"
    assert f"run {start}-two had ended before" in ask("runs", "resume", f"{start}-t", env=env).stdout
    assert ask("runs", "watch", f"{start}-t", env=env).exit_code == 0
    assert ask("runs", "logs", f"{start}-t", env=env).exit_code == 0
    assert ask("runs", "show", start[:5], env=env).exit_code == codes.NOT_FOUND


def test_workers(local: LocalCluster) -> None:
    """``workers`` lists the live workers with what they serve."""
    found = read("workers", env=environment(local))["workers"]
    text = ask("workers", env=environment(local)).stdout

    assert {worker["name"] for worker in found} >= {worker.name for worker in local.workers}
    assert found[0].keys() == {
        *("name", "host", "pid", "slots", "pool", "prefetch", "lanes", "cores", "load", "cpu"),
        *("concurrency_by", "concurrency_why", "prefetch_why", "holds", "lane_memory", "work", "widths", "short"),
        *("memory_available", "memory_total", "memory_limit", "processes"),
        *("queues", "labels", "gpus", "modules", "nodes", "version", "skew", "reported"),
    }
    assert all(memory > 2**20 for worker in found for memory in worker["processes"].values())
    assert all(len(worker["processes"]) == worker["slots"] for worker in found)
    assert all(abs(worker["skew"]) < 1 for worker in found)
    assert local.workers[0].name in text
    assert all((worker["concurrency_by"], worker["holds"]) == ("hand", {}) for worker in found)


@pytest.mark.parametrize("columns", ["90", "160"])
def test_a_worker_is_drained_and_resumed(local: LocalCluster, columns: str) -> None:
    """It says so, in words and as JSON; so does the list, however wide the terminal is."""
    name, env = local.workers[0].name, {**environment(local), "COLUMNS": columns}
    try:
        said = read("workers", "drain", name, env=env)
        text = ask("workers", env=env).stdout
    finally:
        resumed = ask("workers", "resume", name.partition("@")[0], env=env)

    assert said.keys() == {"name", "slots", "lanes", "holds", "concurrency_by", "concurrency_why"}
    assert (said["name"], list(said["holds"])) == (name, ["drained"])
    (line,) = (line for line in text.splitlines() if name in line)
    assert (line.count("drained"), "prefork" in line) == (1, columns == "160")
    assert (resumed.exit_code, resumed.stdout) == (0, f"worker {name} takes lanes\n")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("drain", "nobody"), codes.NOT_FOUND, "no live worker is called 'nobody'; alive: worker1@"),
        (("resume", "nobody"), codes.NOT_FOUND, "no live worker is called 'nobody'"),
        (("stop", "nobody"), codes.NOT_FOUND, "no live worker is called 'nobody'"),
        (("concurrency", "nobody", "2"), codes.NOT_FOUND, "no live worker is called 'nobody'"),
        (("concurrency", "worker1", "0"), codes.USAGE, "a whole number of at least 1, or 'auto'"),
        (("--json", "drain", "worker1"), codes.USAGE, "give --json after the command"),
    ],
)
def test_workers_that_are_not_there(local: LocalCluster, arguments: tuple[str, ...], code: int, text: str) -> None:
    """A name that nobody has, or what cannot be, is one line and a code."""
    done = ask("workers", *arguments, env=environment(local))

    assert done.exit_code == code
    assert text in one_line(done)


def test_doctor_finds_nothing_wrong(local: LocalCluster) -> None:
    """A good cluster has no problem, and its password is not shown."""
    done = ask("doctor", env=environment(local))
    said = read("doctor", env=environment(local))

    assert done.exit_code == 0, done.stdout
    assert said.keys() == {"ok", "configured", "checks", "workers", "aside"}
    assert (said["ok"], said["configured"]) == (True, True)
    assert {check["name"] for check in said["checks"]} >= {
        *("python", "versions", "embedded server", "secret", "broker", "ledger", "persistence", "memory", "clock"),
        *("agenda", "workers", "queues", "modules"),
    }
    password = re.search(r":([^:@]+)@", local.url)
    assert password is not None
    assert password[1] not in done.stdout + done.stderr + json.dumps(said)


def test_run_starts_a_cluster_where_none_is_configured(tmp_path: Path) -> None:
    """Without a configured cluster ``run`` starts one, and leaves nothing of it behind."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}

    done = call("run", f"{FLOWS}:flow", "--input", "[1]", env={**env, "TMPDIR": str(tmp_path)})

    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
    assert remains(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGINT, codes.INTERRUPTED, "ends here, with the embedded cluster"),
        (signal.SIGTERM, codes.TERMINATED, "ends here, with the embedded cluster"),
    ],
)
def test_a_signal_ends_an_embedded_cluster(number: int, code: int, says: str, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end a run on an embedded cluster, say so, and leave nothing of the cluster behind."""
    gate, temporary = tmp_path / "gate", tmp_path / "temporary"
    temporary.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}
    arguments = [*COMMAND, "run", f"{FLOWS}:gated", "--input", json.dumps(str(gate))]

    with subprocess.Popen(
        arguments, cwd=ROOT, env={**env, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True
    ) as waiting:
        until(Path(f"{gate}.reached").exists, seconds=60, what="the branch")
        waiting.send_signal(number)
        _, err = waiting.communicate(timeout=60)

    assert (waiting.returncode, remains(temporary)) == (code, [])
    assert says in err
    assert "Traceback" not in err


UNREACHABLE = ("redis://:canary-9f3@127.0.0.1:1/0", "amqp://me:canary-9f3@127.0.0.1:1//")
BROKEN = ("redis://:canary-9f3/more@127.0.0.1:1/0", "nonsense://me:canary-9f3@host")


@pytest.mark.parametrize("command", ["runs list", "doctor", f"run {FLOWS}:flow"])
@pytest.mark.parametrize("url", UNREACHABLE + BROKEN)
def test_no_password_is_shown(url: str, command: str) -> None:
    """Whatever is wrong with a URL, the output holds no password, not even that of ``--debug``."""
    done = ask("--debug", "--broker-url", url, *command.split(), env={})

    assert done.exit_code in (codes.FAILED, codes.USAGE, codes.UNREACHABLE), done.stderr
    assert "canary-9f3" not in done.stdout + done.stderr


def test_a_worker_shows_no_password() -> None:
    """A worker whose broker has a URL that cannot be read ends with a line that does not repeat it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}

    done = call("--debug", "--broker-url", BROKEN[0], "worker", env=env)

    assert done.returncode == codes.USAGE
    assert "canary-9f3" not in done.stdout + done.stderr


@pytest.mark.parametrize("login", ["", ":canary-9f3@"])
def test_a_login_that_the_server_refuses(local: LocalCluster, login: str) -> None:
    """A wrong password, or none, is one clear line, and a worker does not wait for it to become right."""
    url = re.sub("//[^@]*@", f"//{login}", local.url)
    env = environment(local) | {"EGREGORE_BROKER_URL": url}
    listing, worker = ask("runs", "list", env=env), call("worker", env=env)

    assert (listing.exit_code, worker.returncode) == (codes.UNREACHABLE, codes.USAGE)
    for done in (listing, worker):
        assert "the ledger's server refuses this login" in one_line(done)
        assert "canary-9f3" not in done.stdout + done.stderr


def test_a_worker_finds_modules_where_it_is_started(tmp_path: Path, local: LocalCluster) -> None:
    """The installed command loads a module of the current folder, and a run is served by it."""
    (tmp_path / "found_here.py").write_text("from egregore_dist import node\n\n@node\ndef seven(_):\n    return 7\n")
    command = Path(sys.executable).with_name("egregore-dist")
    environment = {**local.worker_environment(), "EGREGORE_MODULES": "found_here", "EGREGORE_QUEUE": "found-here"}
    environment.pop("PYTHONPATH")
    log = tmp_path / "worker.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [str(command), "worker", "-n", "found@here", "-c", "1"],
            cwd=tmp_path,
            env=environment,
            stdout=out,
            stderr=out,
        ) as worker,
    ):
        try:
            ready = "worker found@here is ready: prefork pool, 1 slot\n"
            until(lambda: "nodes and decisions: " in log.read_text() or worker.poll() is not None, seconds=60)
            assert worker.poll() is None, log.read_text()
            assert f"egregore-dist: {ready}  queues: found-here\n  modules: found_here\n" in log.read_text()
            assert "  nodes and decisions: seven\n" in log.read_text()
            assert "found@here" in session.current().ledger.reports()
        finally:
            worker.terminate()


def test_limits_are_shown_and_changed(local: LocalCluster) -> None:
    """``limits`` lists what runs have declared, and sets and clears it; what is not given stays."""
    env, name = environment(local), "cli.limited"
    assert call("run", f"{FLOWS}:limited", "--input", "3", env=env).returncode == 0

    assert name in ask("limits", "list", env=env).stdout
    (found,) = [limit for limit in read("limits", "list", env=env)["limits"] if limit["name"] == name]
    assert (found["concurrent"], found["per"], found["set"]) == (2, None, False)
    changed = read("limits", "set", name, "--per", "10/min", env=env)
    assert (changed["concurrent"], changed["per"], changed["set"]) == (2, "10/min", True)
    assert read("limits", "set", name, "--concurrent", "none", env=env)["concurrent"] is None
    said = ask("limits", "show", name, env=env).stdout
    assert said.startswith(f"limit {name}: 10/min, 1 of them at once, set by hand (code: 2 at a time)")
    assert read("limits", "clear", name, env=env) == {"name": name, "limit": None}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("show", "cli.nobody"), codes.NOT_FOUND, "there is no limit 'cli.nobody'"),
        (("clear", "cli.nobody"), codes.NOT_FOUND, "there is no limit 'cli.nobody'"),
        (("set", "cli.nobody"), codes.USAGE, "give --concurrent, or --per, or both"),
        (("set", "cli.nobody", "--concurrent", "x"), codes.USAGE, "--concurrent takes a number or 'none', not 'x'"),
        (("set", "cli.nobody", "--concurrent", "0"), codes.USAGE, "limit 'cli.nobody': concurrent must be a whole"),
        (("set", "cli.nobody", "--per", "20"), codes.USAGE, "limit 'cli.nobody': per takes a number and a time"),
        (("set", "a b", "--per", "20/s"), codes.USAGE, "'a b' cannot name a limit"),
    ],
)
def test_limits_that_cannot_be(local: LocalCluster, arguments: tuple[str, ...], code: int, text: str) -> None:
    """One line says what is wrong, and nothing is changed."""
    done = ask("limits", *arguments, env=environment(local))

    assert done.exit_code == code
    assert text in one_line(done)
