"""Exceptions as data, and back."""

from __future__ import annotations

import asyncio
import builtins
import sys
import types
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.wire import codec, failure

E = TypeVar("E", bound=Exception)


class Custom(Exception):
    pass


def told(exc: BaseException, **options: Any) -> failure.Failure:
    return failure.Failure.of(exc, node="n", attempt=2, **options)


def raised(exc: E, cause: BaseException | None = None) -> E:
    try:
        raise exc from cause
    except type(exc) as caught:
        return caught


def test_a_failure_says_what_happened() -> None:
    """Class, message, node, attempt, branch, outcome and arguments are kept."""
    found = told(raised(ValueError("no", 3)), kind="lost", branch=("outer", 4))

    assert (found.kind, found.type, found.message) == ("lost", "ValueError", "('no', 3)")
    assert (found.node, found.attempt, found.branch, found.args) == ("n", 2, ("outer", 4), ("no", 3))


@pytest.mark.parametrize(
    ("exc", "name"),
    [
        (KeyError("k"), "KeyError"),
        (Custom(), f"{__name__}.Custom"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
        (errors.BindingError("x"), "egregore_dist.errors.BindingError"),
    ],
)
def test_classes_are_named_by_module(exc: BaseException, name: str) -> None:
    """Builtins go by their bare name, others by module and name."""
    assert told(exc).type == name


def test_a_failure_travels() -> None:
    """Encoding and decoding give the failure back."""
    found = told(raised(OSError(2, "gone")), kind="timeout", branch=("b", 1))

    assert failure.decode(failure.encode(found)) == found


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x81\xa4kind\xa3odd", b"\xc1"])
def test_what_is_no_failure_is_refused(raw: bytes) -> None:
    """Other data in the place of a failure is an EncodingError."""
    with pytest.raises(errors.EncodingError, match="not a failure"):
        failure.decode(raw)


@given(st.text(), st.text())
def test_any_message_travels(message: str, argument: str) -> None:
    """Any text in an exception can be told and sent, lone surrogates included."""
    found = told(raised(ValueError(message + "\ud800", argument)))

    assert failure.decode(failure.encode(found)) == found


class Hostile(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no args")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_an_exception_that_cannot_be_printed_is_told() -> None:
    """Where str() or args of the exception raise, the failure says so instead of failing itself."""
    found = told(raised(Hostile(), cause=Hostile()))

    assert found.type == f"{__name__}.Hostile"
    assert found.message == "<str() of the exception raised RuntimeError>"
    assert found.args is None
    assert failure.decode(failure.encode(found)) == found


@pytest.mark.parametrize("size", [failure.MESSAGE_LIMIT - 1, failure.MESSAGE_LIMIT, failure.MESSAGE_LIMIT + 1])
def test_long_messages_are_cut(size: int) -> None:
    """A message keeps its limit, and is whole up to it."""
    found = told(ValueError("x" * size))

    assert len(found.message) == min(size, failure.MESSAGE_LIMIT)
    assert found.message.endswith("...") == (size > failure.MESSAGE_LIMIT)


def test_the_limit_is_one_of_bytes() -> None:
    """Characters that take several bytes count as such, and none is cut in the middle."""
    assert len(told(ValueError("é" * 9000)).message.encode()) <= failure.MESSAGE_LIMIT
    assert len(told(ValueError("\ud800" * 9000)).message.encode()) <= failure.MESSAGE_LIMIT


def test_long_tracebacks_keep_both_ends() -> None:
    """A traceback over its limit keeps where it began and what went wrong."""
    text = told(raised(ValueError("x" * 100_000 + " the end"))).traceback

    assert text is not None
    assert len(text.encode()) <= failure.TRACEBACK_LIMIT
    assert text.startswith("Traceback")
    assert "... cut ..." in text
    assert text.endswith("the end\n")


@pytest.mark.parametrize(
    "args",
    [(object(),), ([1],), (Custom(),), ("x" * 3000,), (2**70,), ("\ud800",), (type("S", (str,), {})("a"),)],
    ids=["object", "list", "exception", "long", "wide", "surrogate", "subclass"],
)
def test_arguments_that_are_not_small_and_plain_stay(args: Any) -> None:
    """Other arguments are not kept: the message tells them."""
    assert told(Exception(*args)).args is None


def through(module: str, fn: Any) -> Any:
    """A function of ``module`` that calls ``fn``."""
    namespace: dict[str, Any] = {"__name__": module, "fn": fn}
    exec(compile("def call(): return fn()", f"/{module}.py", "exec"), namespace)
    return namespace["call"]


def test_tracebacks_begin_with_the_users_code() -> None:
    """The frames of workers and of this package are cut before the user's first frame, and only there."""

    def fails() -> None:
        raise ValueError("no")

    call = through("celery.app.trace", through("asyncio.runners", through("egregore_dist.engine.lane", fails)))
    within = through("egregore_dist.engine.lane", through("users.code", through("celery.canvas", fails)))
    with pytest.raises(ValueError, match="no") as caught:
        call()
    start = caught.value.__traceback__
    assert start is not None
    text = told(caught.value.with_traceback(start.tb_next)).traceback
    with pytest.raises(ValueError, match="no") as caught:
        within()
    start = caught.value.__traceback__
    assert start is not None
    mixed = told(caught.value.with_traceback(start.tb_next)).traceback

    assert text is not None
    assert "celery" not in text
    assert "egregore_dist" not in text
    assert "asyncio" not in text
    assert "in fails" in text
    assert mixed is not None
    assert mixed.index("/users.code.py") < mixed.index("/celery.canvas.py")
    assert "egregore_dist" not in mixed


def test_causes_are_told() -> None:
    """The chain of causes is part of the text, each without the worker's frames."""
    empty: dict[str, int] = {}
    with pytest.raises(KeyError) as caught:
        through("celery.app.trace", lambda: empty["k"])()
    found = told(raised(ValueError("outer"), cause=caught.value)).traceback

    assert found is not None
    assert "KeyError: 'k'" in found
    assert "direct cause" in found
    assert found.index("KeyError") < found.index("ValueError: outer")


def test_groups_are_told() -> None:
    """The members of an exception group are part of the text."""
    found = told(raised(ExceptionGroup("several", [raised(ValueError("one")), raised(KeyError("two"))]))).traceback

    assert found is not None
    assert "ValueError: one" in found
    assert "KeyError: 'two'" in found


def test_only_frames_of_the_worker_are_not_cut() -> None:
    """An error that never reached the user's code keeps its frames."""
    with pytest.raises(ZeroDivisionError) as caught:
        through("egregore_dist.engine.lane", through("celery.canvas", lambda: 1 / 0))()
    first = caught.value.__traceback__
    assert first is not None
    assert first.tb_next is not None
    assert first.tb_next.tb_next is not None
    first.tb_next.tb_next.tb_next = None
    text = told(caught.value.with_traceback(first.tb_next)).traceback

    assert text is not None
    assert "/celery.canvas.py" in text


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("no"),
        KeyError("k"),
        OSError(2, "gone"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ZeroDivisionError(),
        TimeoutError("late"),
        errors.BindingError("x"),
        errors.RunFailed("x"),
        errors.RunCancelled("x"),
        errors.NestedWaitError("x"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_known_classes_are_rebuilt(exc: Exception) -> None:
    """Builtins and this package's own errors come back as themselves, with the remote traceback as a note."""
    back = failure.rebuild(failure.decode(failure.encode(told(raised(exc)))))

    assert type(back) is type(exc)
    assert str(back) == str(exc)
    assert back.args == exc.args
    assert back.__notes__[0].startswith("remote traceback:\nTraceback")


def test_every_builtin_is_rebuilt_or_told() -> None:
    """No name of a builtin class stops the one who reads, whatever the message and the arguments."""
    for name, kind in vars(builtins).items():
        if isinstance(kind, type):
            for args in (None, (), ("a", 1)):
                back = failure.rebuild(failure.Failure(type=name, message="m", args=args))

                assert isinstance(back, Exception)
                assert type(back) in (kind, errors.RemoteError) or issubclass(kind, OSError)


@pytest.mark.parametrize(
    "name",
    [
        "KeyboardInterrupt",
        "SystemExit",
        "GeneratorExit",
        "BaseException",
        "BaseExceptionGroup",
        "eval",
        "print",
        "__import__",
        "builtins.ValueError",
        "os.system",
        "egregore_dist.errors.ParallelExecutionError",
        "egregore_dist.errors.BranchError",
        "egregore_dist.errors.Mapping",
        "package.Custom",
        "ＶalueError",  # noqa: RUF001  # a full-width letter
        "",
    ],
)
def test_other_names_stay_text(name: str) -> None:
    """A name that is not in the tables is shown, and neither imported nor called."""
    before = set(sys.modules)

    back = failure.rebuild(failure.Failure(type=name, message="echo", args=("echo",)))

    assert type(back) is errors.RemoteError
    assert (back.type, back.message) == (name, "echo")
    assert set(sys.modules) == before


def test_every_error_of_one_message_is_rebuilt() -> None:
    """Each class of errors.py either builds from one message, or is known to need more."""
    more = {errors.ParallelExecutionError, errors.ParallelTimeoutError, errors.BranchError, errors.RemoteError}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            back = failure.rebuild(failure.Failure(type=f"{kind.__module__}.{kind.__qualname__}", message="m"))

            assert type(back) is (errors.RemoteError if kind in more else kind)


def test_a_failure_becomes_a_branch_error() -> None:
    """The value of a failed branch says what the failure says."""
    found = told(raised(ValueError("no")), kind="timeout")

    entry = codec.decode(codec.encode(failure.to_branch_error(found, "b"), where="a test"))

    assert isinstance(entry, errors.BranchError)
    assert vars(entry) == {
        "branch": "b",
        "kind": "timeout",
        "type": "ValueError",
        "message": "no",
        "node": "n",
        "traceback": found.traceback,
        "attempt": 2,
    }


def test_an_exception_without_a_module_is_told() -> None:
    """A class whose module is not a text is named all the same."""
    kind = types.new_class("Strange", (Exception,))
    kind.__module__ = None  # type: ignore[assignment]

    assert told(kind()).type == "None.Strange"


def test_failures_are_frozen() -> None:
    """A failure does not change."""
    with pytest.raises(AttributeError):
        told(ValueError()).message = "other"  # type: ignore[misc]
    assert issubclass(failure.Failure, msgspec.Struct)
