"""How a command ends that cannot do its work: one line on standard error, and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

import click

from egregore_dist import errors
from egregore_dist.cli import codes, hooks, redact


class Quit(Exception):
    """Ends the command with this exit code and this line."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Commands(click.Group):
    """A group that turns every error into a line and an exit code; with ``--debug`` the traceback comes before it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except KeyboardInterrupt as error:
            _end(ctx, error, codes.INTERRUPTED, "interrupted")
        except Quit as error:
            _end(ctx, error, error.code, str(error))
        except BrokenPipeError:
            raise  # click knows what to do when the reader of a pipe has gone
        except Exception as error:
            _end(ctx, error, code_of(error), line_of(error))


#: By the root of an error's class: what other libraries raise, named so that they are not imported for it.
_FOREIGN = {
    "redis.exceptions.RedisError": codes.UNREACHABLE,
    "kombu.exceptions.OperationalError": codes.UNREACHABLE,
    "pydantic_core._pydantic_core.ValidationError": codes.USAGE,
}

#: The first that fits decides, so what is more special comes first.
_OWN: tuple[tuple[type[errors.EgregoreError], int], ...] = (
    (errors.RunFailed, codes.FAILED),
    (errors.RunNotFound, codes.NOT_FOUND),
    (errors.WorkerNotFound, codes.NOT_FOUND),
    (errors.RunExists, codes.USAGE),
    (errors.BrokerUnavailable, codes.UNREACHABLE),
    (errors.ConfigurationError, codes.USAGE),
    (errors.WorkflowError, codes.USAGE),
    (errors.BindingError, codes.USAGE),
    (errors.EncodingError, codes.USAGE),
    (errors.PayloadTooLarge, codes.USAGE),
    (errors.CodeError, codes.USAGE),
    (errors.NestedWaitError, codes.USAGE),
)


def code_of(error: BaseException) -> int:
    """The exit code for an error."""
    for kind, code in _OWN:
        if isinstance(error, kind):
            return code
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((_FOREIGN[name] for name in names if name in _FOREIGN), codes.INTERNAL)


def line_of(error: BaseException) -> str:
    """What to say about an error, in one line."""
    if code_of(error) == codes.INTERNAL:
        return f"unexpected {type(error).__name__}: {error} (--debug shows where)"
    if hasattr(error, "errors") and type(error).__name__ == "ValidationError":
        # Pydantic's own text repeats the value, which may be a secret.
        wrong = [f"EGREGORE_{str(entry['loc'][0]).upper()}: {entry['msg']}" for entry in error.errors()]
        return "; ".join(wrong)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and isinstance(error, errors.ConfigurationError | errors.BrokerUnavailable):
        # A process that did not start: what it said last is why.
        return f"{lines[0]} {lines[-1]}"
    return lines[0] if lines else type(error).__name__


def _end(ctx: click.Context, error: BaseException, code: int, line: str) -> NoReturn:
    if ctx.params.get("debug"):
        raised = hooks.text("traceback", "".join(traceback.format_exception(error)))
        print(redact.clean(raised), file=sys.stderr, end="" if raised.endswith("\n") else "\n")
        remote = getattr(error, "remote_traceback", None)
        if remote:
            print(redact.clean(f"On the worker:\n{hooks.text('traceback', remote)}"), file=sys.stderr)
    if isinstance(error, errors.RunFailed):
        line = hooks.text("error", line)
    print(redact.clean(f"egregore-dist: {line}"), file=sys.stderr)
    ctx.exit(code)
