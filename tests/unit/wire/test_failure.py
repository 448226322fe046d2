"""Exceptions as data, and back."""

from __future__ import annotations

import asyncio
import builtins
import sys
import threading
import tracemalloc
import types
from pathlib import Path
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
    """Class, message, node, attempt, outcome and arguments are kept."""
    found = told(raised(ValueError("no", 3)), kind="lost")

    assert (found.kind, found.type, found.message) == ("lost", "ValueError", "('no', 3)")
    assert (found.node, found.attempt, found.args) == ("n", 2, ("no", 3))


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
    found = told(raised(OSError(2, "gone"), cause=KeyError("k")), kind="timeout")

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
    assert failure.decode(failure.encode(found)) == found


@pytest.mark.parametrize("size", [failure.MESSAGE_LIMIT - 1, failure.MESSAGE_LIMIT, failure.MESSAGE_LIMIT + 1])
def test_s6_the_length_of_a_message(size: int) -> None:
    """A message keeps its limit, and is whole up to it."""
    found = told(ValueError("x" * size))

    assert len(found.message) == min(size, failure.MESSAGE_LIMIT)
    assert found.message.endswith("...") == (size > failure.MESSAGE_LIMIT)


@pytest.mark.parametrize("text", ["x", "\u0410", "\u4e2d", "\U0001f600", "\ud800"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_s6_the_length_of_a_branch_errors_message(text: str, more: int) -> None:
    """A BranchError has the whole message up to the limit in bytes, and is within it, whatever the characters."""
    width = len(text.encode(errors="backslashreplace"))
    whole = ("x" * (failure.MESSAGE_LIMIT % width) + text * (failure.MESSAGE_LIMIT // width + more)).encode(
        errors="backslashreplace"
    )
    error = failure.to_branch_error(told(ValueError(whole.decode())), "branch")
    read = codec.decode(codec.encode(error, where="a test")).message.encode()

    if more <= 0:
        assert read == whole
    else:
        assert failure.MESSAGE_LIMIT - width - 3 < len(read) <= failure.MESSAGE_LIMIT
        assert read.endswith(b"...")


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
    [(object(),), ({1},), (Custom(),), ("x" * 5000,), (2**70,), ("\ud800",), (type("S", (str,), {})("a"),)],
    ids=["object", "set", "exception", "long", "wide", "surrogate", "subclass"],
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
    assert not [
        name for name in ("celery.app.trace", "asyncio.runners", "egregore_dist.engine.lane") if f"/{name}.py" in text
    ]
    assert "in fails" in text
    assert mixed is not None
    assert mixed.index("/users.code.py") < mixed.index("/celery.canvas.py")
    assert "/egregore_dist.engine.lane.py" not in mixed


def test_a_project_may_be_called_as_a_library() -> None:
    """A module of the user's whose name only begins as Celery's keeps its frames."""

    def fails() -> None:
        raise ValueError("no")

    call = through("celery.app.trace", through("celery_shop.nodes", fails))
    with pytest.raises(ValueError, match="no") as caught:
        call()
    start = caught.value.__traceback__
    assert start is not None
    text = told(caught.value.with_traceback(start.tb_next)).traceback

    assert text is not None
    assert "/celery_shop.nodes.py" in text
    assert "/celery.app.trace.py" not in text


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
    "exc",
    [FileNotFoundError(2, "gone", "/a", None, "/b"), ImportError("no", name="m", path="/m.py"), ValueError("v")],
    ids=lambda exc: type(exc).__name__,
)
def test_what_builtins_know_comes_back(exc: Any) -> None:
    """File names, names of modules, and attributes that were added to a builtin exception are there again."""
    exc.added = {"code": [1, None]}
    back: Any = back_of(exc)

    assert (type(back), str(back), back.args, back.added) == (type(exc), str(exc), exc.args, exc.added)
    for name in ("errno", "filename", "filename2", "name", "path"):
        assert getattr(back, name, None) == getattr(exc, name, None)


class Refused(Exception):
    """An exception with a constructor of its own, which says something else than it is given."""

    made = 0

    def __init__(self, code: int, *, url: str) -> None:
        type(self).made += 1
        super().__init__(f"{url} answered {code}")
        self.code = code
        self.detail = {"url": url, "tried": [1, 2]}


class Missing(FileNotFoundError):
    """An exception whose builtin base keeps more than the arguments."""

    def __init__(self, path: str) -> None:
        super().__init__(2, "is missing", path)


class Several(ExceptionGroup[Exception]):
    """A group of the user's own."""


class Told(Exception):
    """Its text is made of its attributes."""

    code: int

    def __str__(self) -> str:
        return f"code {self.code}"


class Outer:
    class Inner(Custom):
        pass


def back_of(exc: E) -> Exception:
    """What a client gets for ``exc``."""
    return failure.rebuild(failure.decode(failure.encode(told(raised(exc)))))


def test_a_class_that_this_process_has_is_rebuilt() -> None:
    """An exception of the user's own comes back as itself, with all its state, and its constructor is not called."""
    exc = Refused(404, url="/a")
    made = Refused.made
    back = back_of(exc)

    assert type(back) is Refused
    assert (str(back), back.args, vars(back)) == (str(exc), exc.args, {**vars(exc), "__notes__": back.__notes__})
    assert Refused.made == made


@pytest.mark.parametrize("exc", [Custom("a", 1), Custom(), Missing("/x"), Outer.Inner("x")], ids=repr)
def test_own_classes_of_every_shape_are_rebuilt(exc: Exception) -> None:
    """With or without arguments, below builtins that keep more, and inside of other classes."""
    back = back_of(exc)

    assert (type(back), str(back), back.args) == (type(exc), str(exc), exc.args)
    assert getattr(back, "filename", None) == getattr(exc, "filename", None)


def with_attributes(exc: E, **attributes: Any) -> E:
    vars(exc).update(attributes)
    return exc


class Slotted(Exception):
    __slots__ = ("code",)


LOCAL = type("Local", (Exception,), {"__module__": __name__, "__qualname__": "f.<locals>.Local"})


@pytest.mark.parametrize(
    "exc",
    [
        Custom(object()),
        Custom("x" * 5000),
        with_attributes(Custom("x"), response=threading.Lock()),
        with_attributes(Custom("x"), body="x" * 5000),
        Slotted("x"),
        LOCAL("x"),
        type("Absent", (Exception,), {})("x"),
        type("Far", (Exception,), {"__module__": "far.away"})("x"),
    ],
    ids=["argument", "long", "attribute", "large", "slots", "local", "absent", "elsewhere"],
)
def test_what_is_not_plain_or_not_here_is_told(exc: Exception) -> None:
    """Where state cannot travel, or the class is not to be found, a `RemoteError` says class, text and notes."""
    exc.add_note("a hint")
    back = back_of(exc)

    assert type(back) is errors.RemoteError
    assert (back.type, back.message) == (f"{type(exc).__module__}.{type(exc).__qualname__}", str(exc))
    assert back.__notes__[0] == "a hint"
    assert back.__notes__[1].startswith("remote traceback:")


def test_a_class_that_says_something_else_here_is_not_taken() -> None:
    """Where the class of this name says another text than the one that was told, it is another one."""
    kept = told(raised(with_attributes(Told(), code=4)))

    assert type(failure.rebuild(kept)) is Told
    for changed in ({"message": "code 5"}, {"attributes": {}}, {"attributes": {"code": 5}}):
        back = failure.rebuild(msgspec.structs.replace(kept, **changed))
        assert type(back) is errors.RemoteError


def test_a_hostile_class_is_told() -> None:
    """A class whose methods raise is not taken: who shows the error would be disturbed."""
    back = back_of(Hostile())

    assert type(back) is errors.RemoteError
    assert back.message == "<str() of the exception raised RuntimeError>"


@pytest.mark.parametrize("raises", [SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError])
def test_texts_that_would_end_a_process_are_not_had(raises: type[BaseException]) -> None:
    """Whatever str() of an exception, of its notes or of its arguments raises, the failure is told."""

    class Ends(Exception):
        def __str__(self) -> str:
            raise raises

        __repr__ = __str__

    exc = Ends(Ends())
    exc.__notes__ = [Ends()]
    found = told(raised(exc, cause=Ends()))

    assert raises.__name__ in found.message
    assert failure.decode(failure.encode(found)) == found


def test_causes_are_rebuilt() -> None:
    """The chain of explicit causes is there again, each as its class, and their text is in the remote traceback."""
    back = failure.rebuild(told(raised(ValueError("c"), cause=raised(Custom("b"), cause=KeyError("a")))))

    assert isinstance(back.__cause__, Custom)
    assert isinstance(back.__cause__.__cause__, KeyError)
    assert back.__cause__.__cause__.args == ("a",)
    assert "KeyError: 'a'" in back.__notes__[-1]


def test_groups_are_rebuilt() -> None:
    """Groups come back with their members, groups inside them and classes of the user's own included."""
    group = Several("many", [ValueError("a"), ExceptionGroup("inner", [Refused(1, url="u"), KeyError("k")])])
    back = back_of(group)

    assert isinstance(back, Several)
    assert str(back) == str(group)
    first, inner = back.exceptions
    assert isinstance(first, ValueError)
    assert isinstance(inner, ExceptionGroup)
    assert [type(member) for member in inner.exceptions] == [Refused, KeyError]


@pytest.mark.parametrize(
    "exc",
    [
        ExceptionGroup("many", [ValueError(str(number)) for number in range(1000)]),
        BaseExceptionGroup("base", [KeyboardInterrupt()]),
    ],
    ids=["large", "base"],
)
def test_other_groups_are_told(exc: Any) -> None:
    """A group of too many members, or of what would stop the reader, is text."""
    back = failure.rebuild(failure.decode(failure.encode(told(exc))))

    assert isinstance(back, errors.RemoteError)
    assert str(exc) in str(back)


def test_endless_chains_end() -> None:
    """Causes that go round in circles, and thousands of them, are told in a bounded failure."""
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    long: BaseException = ValueError("first")
    for number in range(5000):
        long, before = KeyError(number), long
        long.__cause__ = before
    for exc in (one, long):
        found = told(exc)
        assert len(failure.encode(found)) < 100_000
        assert failure.rebuild(found).__cause__ is not None


def test_failures_are_small() -> None:
    """However much an exception holds, its failure is bounded."""

    def big(depth: int) -> Exception:
        members = [big(depth - 1) for _ in range(5)] if depth else [ValueError("x" * 9000) for _ in range(5)]
        exc = with_attributes(ExceptionGroup("m" * 9000, members), body=["x" * 4000] * 3, more="y" * 4000)
        exc.__notes__ = ["n" * 9000] * 100
        exc.__cause__ = ValueError("x" * 4000, "y" * 80)
        return exc

    assert len(failure.encode(told(big(3)))) < 500_000


def test_a_huge_message_is_not_copied_about() -> None:
    """An exception that says a hundred megabytes is told with little more memory than it takes itself."""
    exc = raised(ValueError("x" * 100_000_000), cause=raised(OSError("y" * 50_000_000)))
    tracemalloc.start()
    found = told(exc)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(failure.encode(found)) < 100_000
    assert peak < 10_000_000
    assert "OSError: yyy" in (found.traceback or "")


def test_s5_names_of_classes_import_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of a module that was not imported here stays text, and the module stays unloaded."""
    (tmp_path / "unloaded_module.py").write_text("class Odd(Exception): pass")
    monkeypatch.syspath_prepend(tmp_path)
    back = failure.rebuild(failure.Failure(type="unloaded_module.Odd", message="m", args=("m",), whole=True))

    assert type(back) is errors.RemoteError
    assert "unloaded_module" not in sys.modules


def test_a_failure_does_not_show_what_it_holds() -> None:
    """The repr of a failure has neither its message nor its arguments nor its attributes."""
    text = repr(told(with_attributes(Custom("hunter2"), token="hunter2")))

    assert "Custom" in text
    assert "hunter2" not in text


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
        "egregore_dist.engine.execute.NodeTimeout",
        "package.Custom",
        "subprocess.Popen",
        "subprocess.CalledProcessError.__init__",
        "os.path.os.error",
        "asyncio.CancelledError",
        "tests.unit.wire.test_failure.pytest.raises",
        f"{__name__}.Outer",
        f"{__name__}.errors.BindingError",
        f"{__name__}.Custom.__class__",
        f"{__name__}.__builtins__.ValueError",
        "ＶalueError",  # noqa: RUF001  # a full-width letter
        "",
    ],
)
def test_s5_other_names_stay_text(name: str) -> None:
    """A name that is not in the tables is shown, and neither imported nor called."""
    before = set(sys.modules)

    back = failure.rebuild(failure.Failure(type=name, message="echo", args=("echo",), whole=True))

    assert type(back) is errors.RemoteError
    assert (back.type, back.message) == (name, "echo")
    assert set(sys.modules) == before


def test_every_error_of_one_message_is_rebuilt() -> None:
    """Each class of errors.py either builds from one message, or is known to need more."""
    more = {
        errors.ParallelExecutionError,
        errors.ParallelTimeoutError,
        errors.BranchError,
        errors.RemoteError,
        errors.RunExists,
    }
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning):
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
