"""``egregore-dist run``: submit a workflow of a module, and wait for its value."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from egregore_dist import errors
from egregore_dist.cli import codes, redact, show, target
from egregore_dist.cli.failing import Quit

if TYPE_CHECKING:
    from egregore_dist.client.run import Run
    from egregore_dist.workflow.step import Step


# What a run waits for that no live worker has.
_UNSERVED = ("workers", "queue", "held", "size", "labels", "module")
# What was said of that, which the client would say again while it waits.
_said: set[str] = set()


@click.command()
@click.argument("workflow", metavar="MODULE:WORKFLOW")
@click.option("-i", "--input", "given", metavar="JSON|@FILE", default="null", help="The input; @- is standard input.")
@click.option(
    "--id", "run_id", help="The run's id; the same id with the same input returns the same run. [default: a new one]"
)
@click.option("--no-wait", is_flag=True, help="Print the run's id and end.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Wait no longer than this.")
@show.as_json
@target.options
def run(workflow: str, given: str, run_id: str | None, no_wait: bool, timeout: float | None, wants_json: bool) -> None:
    """Run WORKFLOW of MODULE, and print its value as JSON.

    Without a configured cluster it runs on one that is started for it, and ends with it. Ctrl-C and --timeout end the
    waiting, and a run on a configured cluster goes on.

    JSON keys: id, workflow, state, seconds, value, error (kind, message, block, branch, node, traceback).
    """
    step = load(workflow)
    data = read_input(given)
    if no_wait and target.is_embedded():
        raise Quit(codes.USAGE, f"--no-wait: {target.NOT_CONFIGURED}")
    with target.submitting():
        with waiting_for(run_id := run_id or uuid.uuid4().hex):
            handle = step.submit(data, id=run_id)
            _say_unserved(handle)
            if no_wait:
                if wants_json:
                    show.print_json(_summary(handle))
                else:
                    click.echo(handle.id)
                return
            if not handle.tell_page() and not target.is_embedded():
                say(f"run {handle.id}: look at it with `egregore-dist runs show {handle.id}`")
            value, failed = _wait(handle, timeout)
        if wants_json:
            show.print_json(_summary(handle) | {"value": value, "error": failed and show.failure(failed)})
        if failed is not None:
            raise failed
        if not wants_json:
            show.print_json(value)


def say(line: str) -> None:
    """Print a line for people, where it does not mix with the output."""
    click.echo(redact.clean(f"egregore-dist: {line}"), err=True)


@contextmanager
def waiting_for(run: str) -> Iterator[None]:
    """What Ctrl-C and SIGTERM mean while the body submits a run and waits: on an embedded cluster its end."""
    log = logging.getLogger("egregore_dist.client.run")
    # Not while it waits: a Ctrl-C that comes while a module is loaded may be lost, or end Python with another code.
    importlib.import_module("egregore_dist.client.progress")
    log.addFilter(_is_said_by_the_client)
    try:
        yield
    except KeyboardInterrupt:
        raise Quit(codes.INTERRUPTED, _left(run, "interrupted")) from None
    except SystemExit as error:
        raise Quit(codes.TERMINATED, _left(run, "terminated")) from error
    finally:
        log.removeFilter(_is_said_by_the_client)


def _is_said_by_the_client(record: logging.LogRecord) -> bool:
    # Its advice after Ctrl-C would be said twice, and would be wrong for an embedded cluster.
    return getattr(record, "action", None) == "run_unserved" and record.getMessage() not in _said


def load(name: str) -> Step:
    """The workflow that ``MODULE:WORKFLOW`` names.

    Raises:
        Quit: there is none, or its module cannot be imported.
    """
    from egregore_dist.workflow.step import Step

    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise Quit(codes.USAGE, f"{name!r} names no workflow: write MODULE:WORKFLOW, such as orders.flows:nightly")
    if module_name.endswith(".py") or "/" in module_name:
        wanted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise Quit(codes.USAGE, f"{module_name!r} is a file: give the module's name, as in {wanted}:{path}")
    target.import_from_here()
    found: Any = _imported(module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            held = sorted(key for key, value in vars(sys.modules[module_name]).items() if isinstance(value, Step))
            has = f"it has {', '.join(held)}" if held else "it has none"
            raise Quit(codes.USAGE, f"module {module_name!r} has no workflow {path!r}: {has}") from None
    if not isinstance(found, Step):
        raise Quit(
            codes.USAGE,
            f"{name} is no workflow but {type(found).__name__}: give a node, Sequence, parallel, map or decision",
        )
    return found


def read_input(given: str) -> Any:
    """The input: JSON, or ``@FILE`` with JSON in it. Raises `Quit` where it cannot be read."""
    where = "--input"
    if given.startswith("@"):
        where = f"--input file {given[1:]}"
        try:
            given = sys.stdin.read() if given == "@-" else Path(given[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise Quit(codes.USAGE, f"{where} cannot be read: {said}") from None
    try:
        return json.loads(given, parse_constant=_refuse)
    except ValueError as error:
        raise Quit(codes.USAGE, f"{where} is not JSON: {error}; text needs quotes, as in --input '\"text\"'") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise Quit(codes.USAGE, f"there is no module {module!r} here or on PYTHONPATH") from None
        raise Quit(codes.USAGE, f"module {module!r} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:
        said = str(error).partition("\n")[0]
        raise Quit(codes.USAGE, f"module {module!r} cannot be imported: {type(error).__name__}: {said}") from error


def _say_unserved(run: Run) -> None:
    """Say at once what the run waits for that no live worker has: with --no-wait nobody would say it later."""
    for reason in run.why():
        if reason.kind in _UNSERVED:
            line = f"run {run.id} waits: {reason}"
            _said.add(line)
            say(line)


def _wait(run: Run, timeout: float | None) -> tuple[Any, errors.RunFailed | None]:
    try:
        return run.result(timeout), None
    except errors.RunFailed as failed:
        return None, failed
    except TimeoutError:
        raise Quit(codes.TIMEOUT, _left(run.id, f"not ended within {timeout:g} s")) from None


def _left(run: str, why: str) -> str:
    from egregore_dist.client import session

    current = session.current()
    if not current.ledger.exists(run):
        return f"{why} before the run was submitted"
    if not target.is_embedded():
        return f"{why}; run {run} goes on. Look at it with: egregore-dist runs show {run}"
    current.end(run)  # so that the workers can end at once
    return f"{why}; run {run} ends here, with the embedded cluster of this command"


def _summary(run: Run) -> dict[str, Any]:
    from egregore_dist.client import session

    record = session.current().ledger.run(run.id)
    seconds = None if record.ended is None else record.ended - record.created
    return {
        "id": record.id,
        "workflow": record.workflow,
        "state": record.state,
        "seconds": seconds,
        "value": None,
        "error": None,
    }
