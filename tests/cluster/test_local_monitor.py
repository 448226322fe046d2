"""The web monitor of a program's own cluster: its link at a terminal, who may follow it, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest

from egregore_dist import LocalCluster, errors
from egregore_dist.client import monitor as web
from egregore_dist.client.monitor import LocalMonitor
from tests.cluster.monitor_flows import keyed
from tests.support.remains import remains
from tests.support.waiting import until

MARK = "EGREGORE_LINK_TEST"

PROGRAM = """
import sys, time
from egregore_dist import node

@node
def double(number: int) -> int:
    return 2 * number

if __name__ == "__main__":
    print(double.map().run([1, 2]), flush=True)
    if sys.stdin.readline() == "raise\\n":
        raise ValueError("the end")
"""


class Terminal:
    """A program whose standard error is a terminal, and what it has said there."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}
        # Not "dumb" nor none: what a terminal of people says.
        own |= {"TMPDIR": str(folder), MARK: str(folder), "TERM": "xterm", **environment}
        self._screen, terminal = pty.openpty()
        self._seen = b""
        try:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=terminal,
                env=own,
                text=True,
            )
        finally:
            os.close(terminal)

    def lines(self, seconds: float = 90.0) -> list[str]:
        """The lines that are whole by now; waits for the first."""
        limit = time.monotonic() + seconds
        while self._read(0.0):
            pass
        while b"\n" not in self._seen and time.monotonic() < limit:
            self._read(0.1)
        return [line.strip() for line in self._seen.decode().split("\n")[:-1]]

    def everything(self) -> str:
        """All that was said until its end."""
        self.process.wait(30)
        while self._read(0.0):
            pass
        return self._seen.decode()

    def _read(self, seconds: float) -> bool:
        if not select.select([self._screen], [], [], seconds)[0]:
            return False
        try:
            found = os.read(self._screen, 4096)
        except OSError:  # nobody has the other end any more
            return False
        self._seen += found
        return bool(found)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()
        os.close(self._screen)


@contextmanager
def terminal(folder: Path, *command: str, **environment: str) -> Iterator[Terminal]:
    """A program at a terminal, which ends with the test."""
    with closing(Terminal(folder, *command, **environment)) as shown:
        yield shown


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A script, and the folder for temporary files beside it."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    (tmp_path / "temporary").mkdir()
    return path


def left(folder: Path) -> list[str]:
    """Processes and files that a program with this folder left."""
    found = remains(folder)
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder):
                found.append(f"{process.pid} {process.cmdline()}")
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def listens(link: str) -> bool:
    """Whether somebody takes connections there."""
    parts = urlsplit(link)
    with socket.socket() as caller:
        return caller.connect_ex((parts.hostname or "", parts.port or 0)) == 0


def followed(link: str) -> httpx.Response:
    """The page that a browser shows which follows a link."""
    with httpx.Client(timeout=30) as browser:
        entered = browser.get(link)
        assert entered.headers["refresh"] == f"0; url={urlsplit(link).path}", entered.text
        return browser.get(link.partition("?")[0])


@pytest.mark.parametrize("end", ["return", "raise", "SIGTERM", "SIGINT", "SIGKILL"])
def test_the_first_line_at_a_terminal_is_the_link(program: Path, end: str) -> None:
    """Who follows it sees the run, nobody else does; however the program ends, nothing of it is left."""
    folder = program.parent / "temporary"
    with terminal(folder, str(program)) as shown:
        link = shown.lines()[0]
        assert shown.process.stdout is not None
        assert shown.process.stdin is not None
        assert shown.process.stdout.readline() == "[2, 4]\n"
        run = urlsplit(link).path.removeprefix("/runs/")
        assert (urlsplit(link).scheme, urlsplit(link).hostname) == ("http", "127.0.0.1")
        # Nobody has looked yet: there is nothing to pay for.
        assert not [line for line in left(folder) if "'monitor'" in line]

        page = followed(link)
        assert page.status_code == 200
        assert run in page.text
        assert "succeeded" in page.text
        for stranger in (link.partition("?")[0], link.partition("?")[0] + "?token=wrong", link[:-1]):
            refused = httpx.get(stranger, timeout=30)
            assert (refused.status_code, run in refused.text.replace(f"/runs/{run}", "")) == (401, False)
        (token,) = parse_qs(urlsplit(link).query)["token"]
        said = [path.read_text(errors="replace") for path in folder.rglob("*.log")]
        lines = [line for line in left(folder) if "'monitor'" in line]
        assert said
        assert lines
        assert not [text for text in (*said, *lines) if token in text]

        if end in ("return", "raise"):
            shown.process.stdin.write(f"{end}\n")
            shown.process.stdin.close()
            shown.process.stdin = None
        else:
            shown.process.send_signal(signal.Signals[end])
        shown.process.wait(30)
        until(lambda: not left(folder), seconds=30, what=f"nothing left of {left(folder)}")
        assert not listens(link)


def test_the_link_of_a_program_that_ends_under_an_open_page(program: Path) -> None:
    """A browser that shows a live page does not hold up the program's end."""
    folder = program.parent / "temporary"
    with terminal(folder, str(program)) as shown, httpx.Client(timeout=30) as browser:
        link = shown.lines()[0]
        browser.get(link)
        with browser.stream("GET", link.partition("?")[0] + "/events") as events:
            assert events.status_code == 200
            assert shown.process.stdin is not None
            started = time.monotonic()
            shown.process.stdin.write("\n")
            shown.process.stdin.close()
            shown.process.stdin = None
            shown.process.wait(30)
            took = time.monotonic() - started
        until(lambda: not left(folder), what="nothing left")
    assert took < 5


@pytest.mark.parametrize("how", ["no terminal", "EGREGORE_MONITOR=0", "not installed"])
def test_no_link_where_none_is_wanted(program: Path, how: str) -> None:
    """In the background, where it was turned off, and where the extra is not installed, a run says nothing of it."""
    folder = program.parent / "temporary"
    command, environment = [str(program)], {}
    if how == "EGREGORE_MONITOR=0":
        environment["EGREGORE_MONITOR"] = "0"
    elif how == "not installed":
        code = (
            "import importlib.util, runpy, sys; find = importlib.util.find_spec; "
            "importlib.util.find_spec = lambda name, *rest: None if name == 'starlette' else find(name, *rest); "
            f"runpy.run_path({str(program)!r}, run_name='__main__')"
        )
        command = ["-c", code]
    if how == "no terminal":
        own = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}
        done = subprocess.run(
            [sys.executable, *command],
            input="",
            env={**own, "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 4]\n", "")
        return
    with terminal(folder, *command, **environment) as shown:
        assert shown.process.stdin is not None
        shown.process.stdin.close()
        shown.process.stdin = None
        said = shown.everything()
        assert shown.process.returncode == 0, said
        assert "http" not in said


def test_asked_for_in_code(capfd: pytest.CaptureFixture[str]) -> None:
    """A cluster that was made with ``monitor=True`` says the link wherever it runs: once a run, and first."""
    with LocalCluster(workers=1, monitor=True) as cluster:
        run = keyed.submit({"a": 1})
        run.result()
        run.result()
        keyed.submit({"a": 1}).result(progress=False)
        link = run.monitor_url

        assert capfd.readouterr().err == f"{link}\n"
        assert link is not None
        assert run.id in followed(link).text
        assert link.startswith(cluster.monitor_url.partition("?")[0] + "runs/")


def test_who_awaits_is_told_too(capfd: pytest.CaptureFixture[str]) -> None:
    """``await run`` and ``arun`` say the link as those who wait without an event loop: once a run, and first."""

    async def wait() -> None:
        await asyncio.gather(run, run)
        await run
        await keyed.arun({"a": 1})

    with LocalCluster(workers=1, monitor=True):
        run = keyed.submit({"a": 1})
        asyncio.run(wait())
        run.result()
        first, second = capfd.readouterr().err.splitlines()

        assert first == run.monitor_url
        assert urlsplit(second).path.startswith("/runs/")
        assert urlsplit(second).path != urlsplit(first).path


def monitor_process() -> psutil.Process:
    """The one that this process has started."""
    children = psutil.Process().children(recursive=True)
    (process,) = [child for child in children if child.cmdline()[1:4] == ["-m", "egregore_dist", "monitor"]]
    return process


def test_it_gives_way_to_the_work_beside_it() -> None:
    """Who looks at runs does not hold them up, where all of it shares one machine."""
    with LocalCluster(workers=0) as cluster, httpx.Client(timeout=30) as browser:
        assert browser.get(cluster.monitor_url).status_code == 200
        assert monitor_process().nice() == min(19, psutil.Process().nice() + 10)


def test_a_monitor_that_is_killed_comes_back(tmp_path: Path) -> None:
    """At the same address, with the same token: its link lets a browser in again."""
    with LocalCluster(workers=0) as cluster, httpx.Client(timeout=30) as browser:
        run = keyed.submit({"a": 1})
        browser.get(cluster.monitor_url)
        address = cluster.monitor_url.partition("?")[0] + f"runs/{run.id}"
        assert run.id in browser.get(address).text
        process = monitor_process()
        process.kill()
        process.wait(20)

        def shows() -> bool:
            try:
                return browser.get(cluster.monitor_url).status_code == 200
            except httpx.HTTPError:  # it was accepted by the one that died
                return False

        until(shows, what="the monitor's return")
        assert browser.get(address).status_code == 200


def test_a_monitor_that_cannot_start_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who follows the link is refused at once from then on, and the log says why."""
    (tmp_path / "starlette.py").write_text("raise ImportError('of the test')")
    folder = tmp_path / "folder"
    folder.mkdir()
    path = os.pathsep.join([str(tmp_path), *sys.path])
    monitor = LocalMonitor({**os.environ, "PYTHONPATH": path, "EGREGORE_BROKER_URL": "redis://127.0.0.1:1"}, folder)
    try:
        with pytest.raises(httpx.HTTPError):
            httpx.get(monitor.link(), timeout=30)
        until(lambda: not monitor.is_listening, what="a port that is closed")
        assert not listens(monitor.link())
        until(lambda: "the web monitor did not start" in caplog.text, what="the log")
        assert monitor.token not in caplog.text
    finally:
        monitor.stop()


def test_a_forked_copy_does_not_keep_the_port(tmp_path: Path) -> None:
    """A copy of the program that lives on has nothing of the monitor."""
    code = (
        "import os, sys, time; from pathlib import Path; from egregore_dist.client.monitor import LocalMonitor\n"
        "monitor = LocalMonitor(os.environ, Path(sys.argv[1]))\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(60)\n"
        "print(monitor.address, child, flush=True); time.sleep(60)"
    )
    program = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    address, child = program.stdout.readline().split()
    try:
        assert listens(address)
        program.kill()
        program.wait(10)
        # The copy lets go of it as it begins, and so does a process of the monitor's that was just being started.
        until(lambda: not listens(address), what="a port that is closed")
        assert psutil.pid_exists(int(child))
    finally:
        os.kill(int(child), signal.SIGKILL)
        program.communicate()


def test_a_forked_copy_starts_none() -> None:
    """It would end with the copy, and take the folder of the cluster with it."""
    with LocalCluster(workers=0, monitor=True) as cluster:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            assert cluster.page("/") is None
            with pytest.raises(errors.ConfigurationError, match="forked"):
                _ = cluster.monitor_url
        assert cluster.page("/") == cluster.monitor_url


def test_of_another_cluster(local: LocalCluster, program: Path) -> None:
    """Of a cluster that exists, ``EGREGORE_MONITOR_URL`` says where the page is; without it nothing is said."""
    code = "import sys; from egregore_dist import Run; print(Run(sys.argv[1]).result())"
    run = keyed.submit({"a": 1})
    for url in ("https://monitor.example.org/", ""):
        given = {"EGREGORE_BROKER_URL": local.url, "EGREGORE_MONITOR_URL": url}
        with terminal(program.parent / "temporary", "-c", code, run.id, **given) as shown:
            said = shown.everything()
            assert shown.process.returncode == 0, said
            first = said.splitlines()[0].strip() if "http" in said else ""
            assert first == (f"https://monitor.example.org/runs/{run.id}" if url else "")


@pytest.mark.timeout(240)
def test_the_demo_stays_where_it_is_asked_to(program: Path) -> None:
    """The demo at a terminal, which with ``--keep`` stays until Ctrl-C."""
    folder = program.parent / "temporary"
    with terminal(folder, "-m", "egregore_dist", "demo", "--top", "1", "--keep", "--workers", "1") as shown:
        until(lambda: "until Ctrl-C" in "".join(shown.lines()) or shown.process.poll() is not None, seconds=150)
        starting, link, *_ = shown.lines()
        assert shown.process.poll() is None, shown.lines()[-20:]
        assert starting == "egregore-dist: starting workers"
        assert followed(link).status_code == 200
        shown.process.send_signal(signal.SIGINT)
        said = shown.everything()
        assert (shown.process.returncode, said.count(link)) == (0, 2)
        until(lambda: not left(folder), what="nothing left")


def test_what_is_not_installed_is_said_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started for a cluster with a monitor where there can be none."""
    monkeypatch.setattr(web, "NEEDED", ("no_such_package",))
    with pytest.raises(errors.ConfigurationError, match=r"egregore-dist\[monitor\]"):
        LocalCluster(workers=1, monitor=True).start()
    with (
        LocalCluster(workers=0) as cluster,
        pytest.raises(errors.ConfigurationError, match=r"egregore-dist\[monitor\]"),
    ):
        _ = cluster.monitor_url
