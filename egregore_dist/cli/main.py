"""``egregore-dist``: every command, each loaded when it is asked for."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from egregore_dist.cli import target
from egregore_dist.cli.failing import Commands

#: The commands and what the list of them says, in its order. Each is in the module of its name.
COMMANDS = {
    "demo": "Survey Python's own library on local workers.",
    "run": "Run a workflow of a module, and print its value.",
    "plan": "Show how the blocks of a workflow would be served, and why.",
    "runs": "Look at runs, and pause, resume, end and retry them.",
    "worker": "Run a worker until it is told to stop.",
    "workers": "List the live workers, and drain, resume or stop one.",
    "nodes": "List what is learned of nodes: how long they take, and of what.",
    "limits": "Look at limits of nodes by name, and change them while runs go on.",
    "top": "Show what the cluster does, as it does it.",
    "monitor": "Serve the web pages where runs can be seen.",
    "doctor": "Check this machine and the cluster.",
    "secret": "Print a new secret for EGREGORE_SECRET.",
}


class Lazy(Commands):
    """Loads a command's module when the command is asked for, so that ``--help`` is quick."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; what the terminal's encoding has no letter for is shown as an escape."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of this name, or None."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"egregore_dist.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="egregore-dist", prog_name="egregore-dist")
@click.option(
    "--debug", is_flag=True, envvar="EGREGORE_DEBUG", show_envvar=True, help="Show the traceback of an error."
)
@target.options
def main(debug: bool) -> None:
    """Python workflows on remote workers, through Celery.

    Exit codes: 1 a run failed, or doctor found a problem; 2 a wrong command, setting or workflow; 3 broker or ledger
    not reachable; 4 no such run; 5 not ended within --timeout; 130 Ctrl-C.
    """
