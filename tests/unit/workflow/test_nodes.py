"""Nodes: how they are made, what they check, what they keep of the function."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from egregore_dist import errors
from egregore_dist.workflow import Node, decision, node, parallel
from egregore_dist.workflow.nodes import Options


def double(x: int, *, by: int = 2) -> int:
    """Multiply."""
    return x * by


async def fetch(url: str) -> str:
    return url


class Scaler:
    """A callable instance with a method."""

    name = "not the node's"

    def __init__(self, by: int) -> None:
        self.by = by
        self.options = "not the node's"

    def __call__(self, x: int) -> int:
        return x * self.by

    def scale(self, x: int) -> int:
        return x * self.by


class AsyncScaler:
    async def __call__(self, x: int) -> int:
        return x


def counted(n: int) -> Iterator[int]:
    yield from range(n)


async def streamed(n: int) -> AsyncIterator[int]:
    yield n


def test_bare_decorator_takes_the_functions_name() -> None:
    """A bare @node is named like its function and runs it when called."""
    made = node(double)

    assert made.name == "double"
    assert made(4, by=3) == 12
    assert made.fn is double


def test_named_decorator_takes_the_given_name() -> None:
    """@node("name") names the node, not the function."""
    made = node("twice")(double)

    assert (made.name, vars(made)["__name__"]) == ("twice", "double")


def test_options_alone_keep_the_functions_name() -> None:
    """@node(retries=2) is named like its function."""
    made = node(retries=2)(double)

    assert (made.name, made.options.retries) == ("double", 2)


def test_decorator_is_reusable() -> None:
    """One decorator makes a node of each function it is given."""
    decorate = node("same", retries=1)

    first, second = decorate(double), decorate(fetch)

    assert (double, fetch) == (first.fn, second.fn)


def test_keeps_what_describes_the_function() -> None:
    """A node has the function's doc, names, module, annotations and signature."""
    made = node("twice")(double)

    assert made.__doc__ == "Multiply."
    assert (double.__module__, "double") == (made.__module__, made.__qualname__)  # type: ignore[attr-defined]
    assert made.__wrapped__ is double  # type: ignore[attr-defined]
    assert inspect.signature(double) == inspect.signature(made)


def test_attributes_of_the_function_are_kept_but_hide_nothing() -> None:
    """Attributes of the function stay readable, except those that would hide what a node has."""

    def load() -> int:
        return 1

    vars(load).update(owner="me", run="no", name="no", fn="no", map="no")

    made = node(load)

    assert made.owner == "me"  # type: ignore[attr-defined]
    assert made.name == "load"
    assert made.fn is load
    assert callable(made.run)
    assert callable(made.map)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (double, False),
        (fetch, True),
        (functools.partial(fetch, "u"), True),
        (functools.partial(double, by=1), False),
        (AsyncScaler(), True),
        (Scaler(1), False),
        (len, False),
    ],
)
def test_is_async(function: Callable[..., Any], expected: bool) -> None:
    """A node knows whether calling its function gives a coroutine."""
    assert expected is node("n")(function).is_async


@pytest.mark.parametrize(
    ("function", "argument", "expected"),
    [
        (functools.partial(double, by=5), 2, 10),
        (len, "abc", 3),
        (str.upper, "abc", "ABC"),
        (Scaler(3).scale, 2, 6),
        (Scaler(3), 2, 6),
        (lambda x: -x, 2, -2),
    ],
)
def test_any_callable_works_with_a_name(function: Callable[..., Any], argument: object, expected: object) -> None:
    """Partials, builtins, methods, callable instances and lambdas are nodes once they have a name."""
    made = node("n")(function)

    assert expected == made(argument)
    assert ("n", Options()) == (made.name, made.options)


@pytest.mark.parametrize("function", [lambda x: x, functools.partial(double), Scaler(1)])
def test_nameless_function_needs_a_name(function: Callable[..., Any]) -> None:
    """A bare node of a function without a name asks for one."""
    with pytest.raises(errors.WorkflowError, match=r"has no name of its own; give one: node\('a_name'\)"):
        node(function)


def test_function_whose_name_is_not_valid() -> None:
    """A function named with letters that a node's name cannot have needs another name."""
    namespace: dict[str, Any] = {}
    exec("def größe(): return 1", namespace)

    with pytest.raises(errors.WorkflowError, match="cannot name a node"):
        node(namespace["größe"])


@pytest.mark.parametrize("function", [counted, streamed, functools.partial(counted, 3)])
def test_generators_are_refused(function: Callable[..., Any]) -> None:
    """A generator function has no value to pass on."""
    with pytest.raises(errors.WorkflowError, match=r"node 'n': a generator function .* return a list"):
        node("n")(function)


def test_a_function_that_has_no_other_name_is_named_by_its_own() -> None:
    """A bare node's error says which function it is."""
    with pytest.raises(errors.WorkflowError, match=rf"^node '{counted.__qualname__}': a generator function"):
        node(counted)


def test_methods_are_refused_without_their_objects() -> None:
    """A method of a class has nobody to give it ``self``; one of an object has."""
    with pytest.raises(errors.WorkflowError, match=r"^node 'Scaler.scale': a method needs .* node\('a_name'\)\(thing"):
        node(Scaler.scale)
    with pytest.raises(errors.WorkflowError, match=r"^node 'n': a method needs"):
        node("n")(functools.wraps(Scaler.scale)(lambda *args: args))
    with pytest.raises(errors.WorkflowError, match=r"^decision 'Scaler.scale': a method needs .* decision\('a_name'\)"):
        decision(Scaler.scale)

    assert node("n")(Scaler(3).scale)(2) == 6
    assert node("n")(functools.wraps(Scaler(3).scale)(lambda *args: args))(2) == (2,)


@pytest.mark.parametrize("given", [Scaler, int])
def test_classes_are_refused(given: Any) -> None:
    """A class is not a node."""
    with pytest.raises(errors.WorkflowError, match="is a class; give a function"):
        node(given)


@pytest.mark.parametrize("given", [3, ["a"], b"name"])
def test_neither_name_nor_function(given: Any) -> None:
    """node() of something else says what it takes."""
    with pytest.raises(errors.WorkflowError, match="takes a name or a function"):
        node(given)


def test_named_node_of_what_cannot_be_called() -> None:
    """node("name") of something that cannot be called is refused."""
    with pytest.raises(errors.WorkflowError, match="node 'n': 3 is not a function"):
        node("n")(3)  # type: ignore[arg-type]


def test_node_of_a_node_is_refused() -> None:
    """A node given to node() is refused by name, with the way to rename it."""
    made = node(double)

    for decorate in (node, node("again")):
        with pytest.raises(errors.WorkflowError, match=r"node 'double' is a step already; .* \.alias"):
            decorate(made)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (1, 1),
        ("50MB", 50_000_000),
        ("2GB", 2_000_000_000),
        ("512MiB", 512 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("100", 100),
        ("7b", 7),
        (" 3kb ", 3000),
        ("1TB", 10**12),
    ],
)
def test_memory(memory: int | str, expected: int) -> None:
    """Memory is bytes, or a number with a unit of 1000 or 1024."""
    assert expected == node("n", memory=memory)(double).options.memory


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("retries", value) for value in (-1, True, 1.5, "3", 10**30)],
        *[("timeout", value) for value in (0, -1, True, "3", float("nan"), float("inf"))],
        *[
            ("retry_on", value)
            for value in ((), "ValueError", [ValueError], ValueError(), KeyboardInterrupt, (OSError, 3))
        ],
        *[("retry_delay", value) for value in (0, -1, True, "3", None, float("inf"))],
        *[
            ("memory", value)
            for value in (
                0,
                -1,
                True,
                1.5,
                "",
                "0GB",
                "2 potatoes",
                "GB",
                "-1MB",
                "2G",
                "0.1B",
                "9999999999TB",
                "9" * 400 + "GB",
                10**30,
            )
        ],
        *[("cpus", value) for value in (0, -0.5, True, "2", float("nan"), float("inf"), 10**400)],
        *[("gpus", value) for value in (0, -1, True, 1.5, "1", 2**53 + 1)],
        *[("labels", value) for value in ({}, "zone=eu", ["zone"], {"zone": 1}, {"a b": "x"}, {"": "x"}, {"zone": ""})],
        *[("labels", value) for value in ({"zone": "a=b"}, {"zone": "a+b"}, {3: "x"}, {"zone": "x" * 90})],
        *[("io", value) for value in (0, 1, "yes", None)],
        *[("queue", value) for value in ("", 3, "two words", "a,b")],
    ],
)
def test_bad_option(option: str, value: Any) -> None:
    """An option of the wrong type or size is refused when the decorator is made, naming node and option."""
    arguments: dict[str, Any] = {option: value}
    with pytest.raises(errors.WorkflowError, match=rf"(?s){option}.*") as caught:
        node("heavy", **arguments)

    assert "node 'heavy'" in str(caught.value)


def test_a_number_that_cannot_be_shown() -> None:
    """The error of an option that has no text names its type."""
    with pytest.raises(errors.WorkflowError, match=r"node 'big': retries must be .* at most .*, not <int>"):
        node("big", retries=10**5000)


def test_bad_option_without_a_name() -> None:
    """An option of an unnamed decorator is refused too, with the function's name."""
    with pytest.raises(
        errors.WorkflowError, match="node 'fetch': retries must be a whole number of at least 0, not -1"
    ):

        @node(retries=-1)
        def fetch(url: str) -> str:
            return url


@pytest.mark.parametrize("seconds", [sys.maxsize, 1e300, 10**400], ids=["maxsize", "float", "int"])
def test_seconds_without_end(seconds: float) -> None:
    """A time that no clock can count is as good as a hundred years."""
    options = node("n", timeout=seconds, retry_delay=seconds)(double).options

    assert options.timeout == options.retry_delay == 100 * 365 * 86400
    assert parallel(node(double), timeout=seconds).limits.timeout == options.timeout


def test_good_options() -> None:
    """Options are kept in their units."""
    needs: dict[str, Any] = {"memory": "1kB", "cpus": 0.5, "gpus": 2, "labels": {"zone": "eu", "disk": "ssd"}}
    made = node("n", retries=2, timeout=3, queue="gpu", io=False, **needs)(double)

    asked: dict[str, Any] = {"memory": 1000, "cpus": 0.5, "gpus": 2, "labels": ("disk=ssd", "zone=eu")}
    assert Options(retries=2, timeout=3.0, queue="gpu", io=False, **asked) == made.options


class Odd(Exception):
    """An exception of the user's own."""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (OSError, ("OSError",)),
        ((ConnectionError, Odd), ("ConnectionError", f"{__name__}.Odd")),
        ((ExceptionGroup,), ("ExceptionGroup",)),
        (None, None),
    ],
)
def test_classes_to_retry_on_are_kept_by_name(given: Any, kept: Any) -> None:
    """The classes that a node is tried again after travel by name, in copies of the node too."""
    made = node("n", retries=1, retry_on=given, retry_delay=2)(double)

    assert Options(retries=1, retry_on=kept, retry_delay=2.0) == made.options
    assert made.alias("m").options == made.options


@pytest.mark.parametrize("name", ["n", None])
def test_classes_to_retry_on_need_retries(name: str | None) -> None:
    """Classes to try again after do nothing where nothing is tried again, unless that was asked for."""
    assert node(name, retries=0, retry_on=OSError)(double).options.retries == 0
    with pytest.raises(
        errors.WorkflowError, match=rf"node '{name or 'double'}': retry_on does nothing without retries"
    ):
        node(name, retry_on=OSError)(double)


@pytest.mark.parametrize("name", ["", "a b", "x" * 129])
def test_bad_name(name: str) -> None:
    """A name that is not valid is refused when the decorator is made."""
    with pytest.raises(errors.WorkflowError, match="cannot name a node"):
        node(name)


held = node("held_name")(double)


@node
def factorial(n: int) -> int:
    return 1 if n <= 1 else n * factorial(n - 1)


def test_a_module_global_travels_as_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that an importable module holds under its function's name is pickled as that name."""
    monkeypatch.setitem(sys.modules, __name__, ModuleType(__name__))
    vars(sys.modules[__name__])["factorial"] = factorial

    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert factorial is pickle.loads(dumps(factorial))
        assert len(dumps(factorial)) < 200


def test_a_node_of_main_travels_by_value() -> None:
    """A node of __main__ that calls itself is pickled whole, and works when it is loaded."""
    namespace: dict[str, Any] = {"__name__": "__main__", "node": node}
    source = "@node('f', retries=1)\ndef f(n):\n    return 1 if n <= 1 else n * f(n - 1)\n"
    exec(source, namespace)

    loaded = pickle.loads(cloudpickle.dumps(namespace["f"]))

    assert loaded is not namespace["f"]
    assert loaded(5) == 120
    assert (loaded.name, loaded.options.retries) == ("f", 1)


def test_a_function_that_calls_a_node_travels() -> None:
    """A function of __main__ takes the nodes it calls with it."""
    namespace: dict[str, Any] = {"__name__": "__main__", "node": node}
    exec("@node('f')\ndef f(n):\n    return n + 1\n@node\ndef g(n):\n    return f(n) * 2\n", namespace)

    assert pickle.loads(cloudpickle.dumps(namespace["g"].fn))(2) == 6


def test_a_local_node_travels_by_value() -> None:
    """A node made inside a function is pickled whole."""
    by = 7

    @node
    def local(x: int) -> int:
        return x * by

    assert pickle.loads(cloudpickle.dumps(local))(2) == 14


def test_copy() -> None:
    """A copy of a node works like it."""
    assert copy.copy(held)(2) == 4
    assert copy.copy(held).name == "held_name"


def test_repr() -> None:
    """The repr says how it was made."""
    assert repr(held) == "node('held_name')"
    assert isinstance(held, Node)
