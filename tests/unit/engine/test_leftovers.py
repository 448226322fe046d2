"""What branches may start, and what is ended after them: in programs of their own, which are daemonic as pools are."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent, indent

import pytest

PROGRAM = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from billiard import process
from concurrent.futures import ProcessPoolExecutor
from math import sqrt
import psutil
from egregore_dist.engine import inside, leftovers

process.current_process()._config["daemon"] = {daemonic}

def sleeper():
    return subprocess.Popen(["sleep", "3600"])

def children():
    return {{child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}}

if __name__ == "__main__":
    try:
{body}
    finally:
        for child in psutil.Process().children(recursive=True):
            child.kill()
"""


def run(body: str, *, daemonic: bool = True) -> None:
    program = PROGRAM.format(daemonic=daemonic, body=indent(dedent(body), " " * 8))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_is_no_daemon_while_it_serves_a_lane() -> None:
    """Before and after it the pool's process is as Celery made it, for the user's own tasks."""
    run(
        """
        own = dict(process.current_process()._config)
        with inside.lane(), leftovers.allowed():
            assert not multiprocessing.current_process().daemon
            assert inside.caller() == "a thread of a node"
            with ProcessPoolExecutor(1) as pool:
                assert pool.submit(sqrt, 4.0).result() == 2.0
        assert process.current_process()._config == own
        """
    )


def test_what_was_there_before_the_lane_is_left_alone() -> None:
    """So is what a module starts while it is imported for a branch; what the branch starts is ended."""
    run(
        """
        before = sleeper()
        with leftovers.allowed():
            with leftovers.kept():
                imported = sleeper()
            sleeper()
            leftovers.end()
            assert children() == {before.pid, imported.pid}
            after = sleeper()
        assert children() == {before.pid, imported.pid}
        assert after.poll() == -signal.SIGTERM
        """
    )


def test_what_takes_no_sigterm_is_killed() -> None:
    """After its grace, with all that it has started itself."""
    run(
        """
        shell = "trap '' TERM; sleep 3600 & echo $!; while :; do sleep 1; done"
        with leftovers.allowed():
            stubborn = subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, text=True)
            started = int(stubborn.stdout.readline())
            leftovers.end()
            assert not children()
            assert not psutil.pid_exists(started)
            assert stubborn.wait() == -signal.SIGKILL
            stubborn.stdout.close()
        """
    )


def test_processes_that_were_ended_are_known_to_have_ended() -> None:
    """By whoever holds them, such as a module, which may wait for them."""
    run(
        """
        def threads():
            for _ in range(8):
                threading.Thread(target=time.sleep, args=(3600,)).start()

        for _ in range(8):
            with leftovers.allowed():
                held = [multiprocessing.get_context("fork").Process(target=threads) for _ in range(10)]
                for each in held:
                    each.start()
            assert [each.exitcode for each in held] == [-signal.SIGTERM] * 10
        """
    )


def test_a_process_that_a_branch_forks_has_no_handlers_of_the_worker() -> None:
    """SIGTERM ends it at once, as `Pool.terminate` and `Process.terminate` need; a handler of the user's stays."""
    run(
        """
        from billiard import common
        signal.signal(signal.SIGTERM, common._shutdown_cleanup)
        mine = lambda number, frame: None
        signal.signal(signal.SIGUSR1, mine)

        def look():
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
                     and signal.getsignal(signal.SIGUSR1) is mine else 1)

        for expected in (0, 1):
            child = multiprocessing.get_context("fork").Process(target=look, daemon=False)
            if expected == 0:
                with leftovers.allowed():
                    child.start()
                    child.join()
            else:
                process.current_process()._config["daemon"] = False
                child.start()
                child.join()
            assert child.exitcode == expected
        """
    )


@pytest.mark.parametrize("way", ["other lanes", "an app of the user's own on threads"])
def test_a_process_that_others_share(way: str) -> None:
    """Nothing is ended while another lane runs here; nor, ever, where it may be of a task of the user's."""
    run(
        f"""
        with leftovers.allowed():
            left = sleeper()
            if {way == "other lanes"}:
                leftovers.own()
                with leftovers.allowed():
                    leftovers.end()
                    assert children() == {{left.pid}}
            else:
                leftovers.end()
        assert children() == ({{left.pid}} if {way != "other lanes"} else set())
        """,
        daemonic=False,
    )


def test_a_process_whose_children_were_not_asked_for() -> None:
    """Outside `allowed` nobody knows what the process had before: nothing is ended."""
    run(
        """
        before = sleeper()
        leftovers.own()
        leftovers.end()
        assert children() == {before.pid}
        """,
        daemonic=False,
    )


def test_the_end_of_a_branch_costs_nothing_without_children() -> None:
    """One system call: far less than a branch of fifty microseconds."""
    run(
        """
        import timeit
        with leftovers.allowed():
            assert min(timeit.repeat(leftovers.end, number=1000, repeat=20)) / 1000 < 10e-6
        """
    )
