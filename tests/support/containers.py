"""Worker nodes that are containers of the worker's image, where there is a Docker engine.

A `DockerContainer` is driven as a `ProcessContainer` is: its process is the attached ``docker run``, which hands on
signals and the log.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.nodes import ProcessContainer

ROOT = Path(__file__).parents[2]
IMAGE = "egregore-worker-under-test"


def missing() -> str:
    """Why there are no containers here, or ""."""
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        return "docker is not installed"
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    return "" if asked.returncode == 0 else f"no Docker engine: {asked.stderr.strip()}"


def build() -> None:
    """Build the worker's image from this repository."""
    subprocess.run(build_command(), check=True)


def build_command() -> list[str]:
    """The command that builds it."""
    return ["docker", "build", "--quiet", "--file", str(ROOT / "worker/Dockerfile"), "--tag", IMAGE, str(ROOT)]


def run_command(container: str, *, folder: Path, names: Sequence[str], options: Sequence[str]) -> list[str]:
    """The command that runs a worker.

    It shares this machine's network and process ids, so that it reaches the test's server, and so that the checker,
    which looks for processes, sees those of the container.

    Args:
        container: its name for Docker.
        folder: where nodes write down what they do.
        names: the environment that it gets, of which no value appears in the command.
        options: of ``egregore-dist worker``.
    """
    command = ["docker", "run", "--rm", "--name", container, "--network", "host", "--pid", "host"]
    command += ["--user", f"{os.getuid()}:{os.getgid()}"]
    command += ["--volume", f"{ROOT / 'tests'}:/code/tests:ro", "--volume", f"{folder}:{folder}"]
    for name in names:
        command += ["--env", name]
    return [*command, IMAGE, *options]


class DockerContainer(ProcessContainer):
    """A worker in a container; the arguments are those of a `ProcessContainer`, without what only a process has."""

    def __init__(self, name: str, *, options: Sequence[str] = (), **given: Any) -> None:
        self._options = options
        self._container = ""
        super().__init__(name, options=options, **given)

    def start(self) -> None:
        """Start it, without waiting. It is another container each time: Docker may still be removing the one before."""
        self._container = f"egdtest-{uuid.uuid4().hex[:8]}"
        self._env["EGREGORE_WORKER_NAME"] = self.name
        self._command = run_command(
            self._container,
            folder=self.log.parent,
            names=sorted(name for name in self._env if name.startswith(("EGREGORE_", "EGDTEST_")) or name == "TMPDIR"),
            options=self._options,
        )
        super().start()

    def pause(self) -> None:
        """Stop all of its processes where they stand."""
        self._docker("pause")

    def unpause(self) -> None:
        """Let them go on."""
        self._docker("unpause")

    def kill_main(self) -> None:
        """Not told apart: the end of a container's main process is the end of all."""
        self.kill()

    def _kill_group(self) -> None:
        self._docker("kill")
        super()._kill_group()

    def _docker(self, command: str) -> None:
        # One that has ended is gone, which Docker calls an error.
        subprocess.run(["docker", command, self._container], capture_output=True)
