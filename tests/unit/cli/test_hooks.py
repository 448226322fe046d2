"""What a user's hook has taken out is not shown, nor what it failed on."""

from __future__ import annotations

import logging
from typing import Any

import click
import pytest

from egregore_dist import errors
from egregore_dist.cli import failing, hooks, limits, logs, show
from egregore_dist.client.logs import LogLine
from egregore_dist.ledger.limits import Bucket, Known
from egregore_dist.monitor import values, words
from egregore_dist.wire import codec
from egregore_dist.workflow.limits import Rule
from tests.support.hooks import SECRET, breaks, fails, forgets, mask

TEXTS: tuple[hooks.What, ...] = ("error", "traceback", "log", "limit", "message")
DATA: tuple[hooks.What, ...] = ("input", "result")
LINE = LogLine(
    cursor="1-1",
    time=1.0,
    worker="w",
    block=None,
    block_name=None,
    branch=None,
    branch_name=None,
    attempt=1,
    node="n",
    source="stdout",
    level="INFO",
    text=f"it is {SECRET}",
    dropped=0,
)
FAILED = errors.RunFailed(f"node n: {SECRET}", run_id="r", node="n", remote_traceback=f"ValueError: {SECRET}")
LIMIT = Known(
    name="model",
    rule=Rule(concurrent=1),
    declared=None,
    is_set=True,
    key="card",
    buckets=(Bucket(limit="model", value=SECRET, rule=Rule(concurrent=1), held=1, waiting=0, starts_in=0.0),),
    more=0,
)


def test_without_a_hook_everything_is_as_it_is() -> None:
    """What is shown is what was said."""
    assert hooks.text("log", SECRET) == SECRET
    assert hooks.value("result", {"a": [SECRET]}) == {"a": [SECRET]}


@pytest.mark.parametrize("what", TEXTS)
def test_texts_pass_it(what: hooks.What) -> None:
    """A text is what the hook makes of it, and the hook is told what it is."""
    hooks.use(mask)

    assert hooks.text(what, f"it is {SECRET}") == f"it is <{what}>"


@pytest.mark.parametrize("what", DATA)
def test_values_pass_it(what: hooks.What) -> None:
    """A value is what the hook makes of it."""
    hooks.use("tests.support.hooks:mask")

    assert hooks.value(what, {"a": [SECRET, 1]}) == {"a": [f"<{what}>", 1]}


@pytest.mark.parametrize("hook", [fails, forgets])
def test_what_it_fails_on_is_not_shown(hook: hooks.Hook, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that fails, or returns no text for one, leaves a word in its place, and says so without the data."""
    hooks.use(hook)

    with caplog.at_level(logging.WARNING):
        assert {hooks.text(what, SECRET) for what in TEXTS} == {"redacted"}

    assert "EGREGORE_REDACT failed on log" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("hook", [fails, breaks])
def test_a_value_that_it_fails_on_is_not_shown(hook: hooks.Hook) -> None:
    """Neither is the value, nor what cannot be shown of what the hook returned."""
    hooks.use(hook)

    assert {hooks.value(what, {"a": SECRET}) for what in DATA} == {"redacted"}


@pytest.mark.parametrize("hook", [mask, fails])
def test_everything_that_is_shown_passes_it(hook: hooks.Hook, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, errors, tracebacks, values and keys of limits, as text, as JSON and on pages."""
    hooks.use(hook)
    template = (
        "{% from 'macros.html' import why, log_lines with context %}{{ why(it, '', true) }}{{ log_lines('r', [line]) }}"
    )

    class Failure:
        type, node, attempt, message, traceback = "ValueError", "n", 1, SECRET, SECRET

    class Why:
        failure, state, block = Failure, "error", "0"

    shown: list[Any] = [
        logs.text(LINE),
        logs.json_line(LINE),
        show.failure(FAILED),
        limits.as_json(LIMIT),
        limits._where(LIMIT, LIMIT.buckets[0]),
        values._text(codec.encode({"a": SECRET}, where="here"), "result").text,
        words.templates().from_string(template).render(it=Why, line=LINE),
    ]

    for one in shown:
        assert SECRET not in str(one)
        assert hooks.REDACTED in str(one) or "&lt;" in str(one) or "<" in str(one)


@pytest.mark.parametrize("debug", [True, False])
def test_errors_of_commands_pass_it(debug: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that ends with the error of a run says it as the hook has it, its tracebacks too."""
    hooks.use(mask)
    context = click.Context(click.Command("x"))
    context.params["debug"] = debug
    with pytest.raises(click.exceptions.Exit):
        failing._end(context, FAILED, 1, failing.line_of(FAILED))

    said = capsys.readouterr().err
    assert "<error>" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "name",
    [
        *("", "tests.support.hooks", "tests.support.hooks:", "tests.support.hooks:missing", "nothing.there:mask"),
        *("tests.support.hooks:NO_FUNCTION", "../x:y", ":mask"),
    ],
)
def test_a_hook_that_is_none_is_refused(name: str) -> None:
    """A setting that names no function stops the program, before anything is shown."""
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_REDACT"):
        hooks.use(name)
