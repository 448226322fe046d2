"""Errors become a line and an exit code."""

from __future__ import annotations

import click
import kombu.exceptions
import pydantic
import pytest
import redis.exceptions
from click.testing import CliRunner

from egregore_dist import errors
from egregore_dist.cli import codes
from egregore_dist.cli.failing import Commands, Quit, code_of, line_of
from egregore_dist.settings import Settings


def ended(error: BaseException, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command that raises."""

    @click.group(cls=Commands)
    @click.option("--debug", is_flag=True)
    def main(debug: bool) -> None:
        pass

    @main.command()
    def work() -> None:
        raise error

    result = CliRunner().invoke(main, [*arguments, "work"])
    assert result.stdout == ""
    return result.exit_code, result.stderr


def subclasses(kind: type[errors.EgregoreError]) -> set[type[errors.EgregoreError]]:
    """Every error of the package below ``kind``."""
    return {kind}.union(*(subclasses(below) for below in kind.__subclasses__()))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RunFailed("x"), codes.FAILED),
        (errors.RunCancelled("x"), codes.FAILED),
        (errors.WorkflowError("x"), codes.USAGE),
        (errors.BindingError("x"), codes.USAGE),
        (errors.ConfigurationError("x"), codes.USAGE),
        (errors.BrokerUnavailable("x"), codes.UNREACHABLE),
        (errors.RunNotFound("x"), codes.NOT_FOUND),
        (redis.exceptions.ResponseError("x"), codes.UNREACHABLE),
        (kombu.exceptions.OperationalError("x"), codes.UNREACHABLE),
        (Quit(codes.TIMEOUT, "x"), codes.TIMEOUT),
    ],
)
def test_codes(error: Exception, code: int) -> None:
    """Each kind of error has its exit code, and is one line."""
    assert ended(error) == (code, "egregore-dist: x\n")


def test_every_error_that_a_command_can_meet_has_a_code() -> None:
    """No error of the package ends as a mistake of the package, except the two that are values."""
    values = {errors.EgregoreError, errors.BranchError, errors.RemoteError}
    unmapped = {
        kind
        for kind in subclasses(errors.EgregoreError) - values
        if kind.__module__ == errors.__name__ and code_of(kind.__new__(kind)) == codes.INTERNAL
    }

    assert unmapped == set()


def test_a_mistake_is_called_so() -> None:
    """An error that nobody expected says its type, and how to see more."""
    assert ended(KeyError("k")) == (
        codes.INTERNAL,
        "egregore-dist: unexpected KeyError: 'k' (--debug shows where)\n",
    )


def test_debug_shows_the_traceback() -> None:
    """With ``--debug`` the traceback, also the remote one, comes before the line."""
    error = errors.RunFailed("it failed", remote_traceback="remote lines")

    code, text = ended(error, "--debug")

    assert code == codes.FAILED
    assert "Traceback (most recent call last)" in text
    assert "remote lines" in text
    assert text.splitlines()[-1] == "egregore-dist: it failed"


def test_an_interrupt() -> None:
    """Ctrl-C ends with 130."""
    assert ended(KeyboardInterrupt()) == (codes.INTERRUPTED, "egregore-dist: interrupted\n")


def test_a_worker_that_did_not_start_says_why() -> None:
    """Of a message with the end of a log, the first line and the last are shown."""
    error = errors.ConfigurationError("worker w ended:\nTraceback\n  File\nCodeError: no module m\n")

    assert line_of(error) == "worker w ended: CodeError: no module m"


def test_what_a_node_said_is_cut_to_one_line() -> None:
    """Of a failure's message the first line is shown."""
    assert line_of(errors.RunFailed("ValueError: a\nb")) == "ValueError: a"


def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that cannot be read is named, its value is not repeated."""
    monkeypatch.setenv("EGREGORE_RETENTION", "canary")
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings()

    line = line_of(caught.value)

    assert code_of(caught.value) == codes.USAGE
    assert line.startswith("EGREGORE_RETENTION: ")
    assert "canary" not in line


def test_the_line_holds_no_password() -> None:
    """A URL in a message loses its password."""
    _, text = ended(errors.BrokerUnavailable("redis://:canary@host is away"))

    assert text == "egregore-dist: redis://:***@host is away\n"
