"""Binding data to parameters."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.wire import codec
from egregore_dist.workflow import Context
from egregore_dist.workflow.binding import Parameters
from egregore_dist.workflow.binding import Row as Line
from tests.support.signatures import MISSING, Shape, defaults, function_of, shapes, values

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

CONTEXT = Context(run="r", workflow="w", block=None, branch=None, node="n", attempt=1)


def kept(value: Any, annotation: Any, where: str) -> Any:
    """A conversion that changes nothing."""
    return value


def bound(function: Callable[..., Any], value: Any, context: Context | None = CONTEXT) -> Any:
    """What ``function`` returns for ``value``; a check that disagrees with the binding fails the test."""
    parameters = Parameters.of(function)
    try:
        args, kwargs = parameters.bind("n", value, context=context, convert=kept)
    except errors.BindingError:
        with pytest.raises(errors.BindingError):
            parameters.check("n", value)
        raise
    parameters.check("n", value)
    return function(*args, **kwargs)


def one(x):  # type: ignore[no-untyped-def]
    return x


def two(a, b):  # type: ignore[no-untyped-def]
    return a, b


def nothing() -> str:
    return "called"


def text(url: str) -> str:
    return url


def injected_by_key(*, ctx: Optional[Context], url: str) -> Any:  # noqa: UP045
    return ctx, url


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a table of the page."""

    function: str
    input: str
    receives: str

    @property
    def function_of(self) -> Callable[..., Any]:
        """The function."""
        return written(self.function)

    @property
    def value(self) -> Any:
        """The input."""
        return eval(self.input.strip("`"), {**NAMESPACE})


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(header: str) -> list[list[str]]:
    """The rows of all tables of the page with this header."""
    found, inside = [], False
    for line in PAGE.splitlines():
        if line.startswith("|"):
            inside = inside or cells(line) == header.split(", ")
            if inside and not set(line) <= set("|-") and cells(line) != header.split(", "):
                found.append(cells(line))
        else:
            inside = False
    return found


PAGE = (Path(__file__).parents[3] / "docs" / "binding.md").read_text("utf-8")
CASES = [Case(*row) for row in tables("function, input, receives")]


def page() -> dict[str, Any]:
    """What the page's code defines, and the context that its cases receive."""
    module = types.ModuleType("page")
    sys.modules["page"] = module  # dataclasses look there
    exec(PAGE.split("```python\n")[1].split("```")[0], vars(module))
    return vars(module) | {"context": CONTEXT}


NAMESPACE = page()


def written(cell: str) -> Callable[..., Any]:
    """The function of a cell such as ``f(a, b)`` as ``partial(f, b=2)``; it returns what its parameters hold."""
    signature, _, wrapped = (part.strip("` ") for part in cell.partition(" as "))
    namespace = {**NAMESPACE}
    exec(f"def {signature}: return dict(locals())", namespace)
    made: Callable[..., Any] = eval(wrapped or "f", namespace)
    return made


def held(cell: str) -> dict[str, Any]:
    return dict(eval(f"dict({cell.strip('`')})", {**NAMESPACE}))


def received(function: Callable[..., Any], value: Any) -> Any:
    """What ``function`` returns of ``value`` after its way over the wire, converted as workers do."""
    data = codec.decode(codec.encode(value, where="the input"))
    args, kwargs = Parameters.of(function).bind("n", data, context=CONTEXT, convert=codec.convert)
    return function(*args, **kwargs)


def test_the_page_has_a_case_for_each_cell_of_the_rule() -> None:
    """Each line of the rule meets None, a mapping, a list and another value."""
    assert len(CASES) == PAGE.count("\n| `f(")
    kinds = {type(None): "None", dict: "a mapping", list: "a list", tuple: "a list"}
    cells = {(Parameters.of(case.function_of).row, kinds.get(type(case.value), "another value")) for case in CASES}
    assert cells == set(itertools.product(Line, ["None", "a mapping", "a list", "another value"]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.function} {case.input}")
def test_every_case_of_the_page(case: Case) -> None:
    """Functions receive what docs/binding.md says, over the wire and before it."""
    if case.receives == "`BindingError`":
        with pytest.raises(errors.BindingError, match=r"give|Give"):
            bound(case.function_of, case.value)
    else:
        assert held(case.receives) == received(case.function_of, case.value)
        bound(case.function_of, case.value)


def test_a_captured_default_is_kept() -> None:
    """`lambda cfg=cfg: ...` captures a value: an input that is a mapping does not replace it."""
    cfg = {"retries": 3}

    def whole(cfg=cfg):  # type: ignore[no-untyped-def]
        return cfg

    assert bound(lambda cfg=cfg: cfg, {"url": "/users"}) is cfg
    assert bound(whole, {"url": "/users"}) is cfg


@pytest.mark.parametrize("row", tables("annotation, can be made of a mapping"), ids=str)
def test_every_type_of_the_page(row: list[str]) -> None:
    """Types that the page lists are bound by name or whole, as it says."""
    for annotation in row[0].replace("`, `", "`;`").split(";"):
        by_name = {"p": MISSING} if row[1] == "no" else {"p": {"p": MISSING}}
        assert bound(written(f"f(p: {annotation.strip('`')})"), {"p": MISSING}) == by_name


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2], (1,), {"x": 1}, {"y": 1}, {}, {1, 2}])
def test_one_parameter_gets_the_whole_value(value: Any) -> None:
    """A single parameter without annotation gets whatever there is, a mapping with its name too."""
    assert value == bound(one, value)


@pytest.mark.parametrize("value", [None, 3, [1, 2], {"x": 1}])
def test_no_parameter_gets_nothing(value: Any) -> None:
    """A function without parameters is called with nothing."""
    assert bound(nothing, value) == "called"


def test_the_pages_first_example() -> None:
    """url: str takes its key of a mapping, because no mapping is a string."""
    assert bound(text, {"url": "http://x", "query": "q"}) == "http://x"
    assert bound(text, "http://x") == "http://x"


class Colour(enum.Enum):
    RED = 1


class Shade(enum.Enum):
    DARK = {"k": 1}  # noqa: RUF012  # as users write it


class Point(typing.NamedTuple):
    x: int


class Typed(TypedDict):
    p: int


@dataclasses.dataclass
class Data:
    p: int


class Struct(msgspec.Struct):
    p: int


class Model(pydantic.BaseModel):
    p: int


class Shaped(Protocol):
    p: int


class Plain:
    pass


T = TypeVar("T")
UserId = NewType("UserId", int)
Row = NewType("Row", dict)  # type: ignore[type-arg]


# What no mapping is, whatever it holds; what a function may make of one; and what a mapping is, or is decoded into.
NEVER: tuple[Any, ...] = (
    *(str, int, float, bool, bytes, list, tuple, set, frozenset, complex, type(None), None, pathlib.Path),
    *(datetime.date, datetime.datetime, datetime.timedelta, uuid.UUID, decimal.Decimal, Colour, Point),
    *(list[int], list[dict[str, int]], tuple[int, ...], set[str], Sequence[int]),
    *(Literal["a"], Literal[1, None], Literal[Colour.RED]),
    *(Annotated[int, "note"], UserId, Annotated[str | None, "note"]),
)
MADE: tuple[Any, ...] = (Plain, Shade, Literal[Shade.DARK])
MAPPINGS: tuple[Any, ...] = (
    *(dict, Mapping, MappingProxyType, dict[str, int], Mapping[str, Any], Any, object, Iterable[str], T),
    *(Typed, Data, Struct, Model, Shaped, Row, Annotated[dict[str, int], "note"]),
)


def taking(annotation: Any, *, has_default: bool = False) -> Callable[..., Any]:
    """A function of one parameter, ``p``, whose default is `MISSING`."""

    def f(p):  # type: ignore[no-untyped-def]
        return p

    f.__annotations__["p"] = annotation
    f.__defaults__ = (MISSING,) if has_default else None
    return f


@pytest.mark.parametrize(
    "annotation",
    [*NEVER, Optional[str], Union[int, str], int | None, list[int] | tuple[int, ...], Optional[UserId]],  # noqa: UP007, UP045
)
def test_by_key_where_no_mapping_fits(annotation: Any) -> None:
    """A single parameter takes its key of a mapping where its type is one that no mapping satisfies, and needs it."""
    assert bound(taking(annotation), {"p": "value", "q": 1}) == "value"
    assert bound(taking(annotation, has_default=True), {"q": 1}) is MISSING
    with pytest.raises(errors.BindingError, match=r"node 'n' needs 'p', missing from its input; .* there: 'q'"):
        bound(taking(annotation), {"q": 1})


@pytest.mark.parametrize("annotation", [*MADE, Plain | int])
def test_the_whole_mapping_where_it_may_be_made_into_one(annotation: Any) -> None:
    """A class that a function may make of a mapping takes the whole, whatever its keys."""
    assert bound(taking(annotation), {"p": "value", "q": 1}) == {"p": "value", "q": 1}
    assert bound(taking(annotation, has_default=True), {"q": 1}) is MISSING


@given(
    st.lists(st.sampled_from([*NEVER, *MADE, *MAPPINGS]), min_size=1, max_size=3),
    st.booleans(),
    st.dictionaries(st.sampled_from(["p", "P", "q", 1]), st.integers(), max_size=3),
)
def test_a_mapping_for_one_parameter(members: list[Any], has_default: bool, value: dict[Any, Any]) -> None:
    """A required parameter takes a mapping whole if its union allows it, otherwise by name; an optional one by name."""
    union = functools.reduce(lambda some, more: Union[some, more], members)  # noqa: UP007
    function = taking(union, has_default=has_default)

    if not has_default and any(member in MAPPINGS or member in MADE for member in members):
        assert bound(function, value) == value
    elif "p" in value:
        assert bound(function, value) == value["p"]
    elif has_default:
        assert bound(function, value) is MISSING
    else:
        with pytest.raises(errors.BindingError, match="needs 'p', missing"):
            bound(function, value)


@pytest.mark.parametrize(
    "annotation",
    [*MAPPINGS, str | dict[str, int], Optional[Data], Data | int, "Unknown", "list[Unknown]"],  # noqa: UP045
)
def test_the_whole_mapping_where_one_fits(annotation: Any) -> None:
    """A single parameter gets the whole mapping where its type can be satisfied by one, or is not known."""

    def f(p):  # type: ignore[no-untyped-def]
        return p

    f.__annotations__["p"] = annotation
    assert bound(f, {"p": "value", "q": 1}) == {"p": "value", "q": 1}


@pytest.mark.parametrize(
    ("function", "value", "message"),
    [
        (
            two,
            {"a": 1, "x": 2},
            r"^node 'n' needs 'b', missing from its input; the keys that were there: 'a', 'x'\.",
        ),
        (two, {"a": 1, "x": 2}, r"Several of its parameters are required, so a mapping is bound by name .*: give each"),
        (two, {}, r"needs 'a', 'b', missing from its input; the keys that were there: none"),
        (two, [1], r"takes 2 values by position \('a', 'b'\), but its input, a list, has 1\. Several .*: give as many"),
        (two, (1, 2, 3), r"takes 2 values by position \('a', 'b'\), but its input, a tuple, has 3"),
        (two, 7, r"takes 'a', 'b', but was given a single int\. Several .*: give a mapping with these keys, or a list"),
        (two, None, r"takes 'a', 'b', but was given None"),
        (two, "ab", r"given a single str"),
        (lambda *, a, b: None, [1, 2], r"takes 0 values by position \(none\)"),
        (lambda a, *, b: None, [1], r"give a mapping, since a list has no value for 'b'"),
        (lambda a, b, c=3: None, [1], r"takes 2 to 3 values by position"),
        (lambda a, b, *rest: None, [1], r"takes 2 or more values by position"),
        (lambda a, *, b: None, 7, r"a single int\. Several .*: give a mapping with these keys, or leave one"),
        (lambda **kw: None, 3, r"takes keyword arguments only, but was given a value of type int"),
        (lambda **kw: None, [3], r"takes keyword arguments only"),
        (
            text,
            {"ur": "x"},
            r"^node 'n' needs 'url', missing from its input; the keys that were there: 'ur'\.",
        ),
        (text, {"ur": "x"}, r"can be made of no mapping, .* or annotate `url: dict` to take the whole mapping$"),
        (text, {}, r"needs 'url', missing from its input; the keys that were there: none"),
        (injected_by_key, {"ur": "x"}, r"needs 'url', missing"),
    ],
)
def test_what_does_not_fit(function: Callable[..., Any], value: Any, message: str) -> None:
    """What does not fit is an error that names node, parameters and the keys that were there."""
    with pytest.raises(errors.BindingError, match=message):
        bound(function, value)


def test_the_list_of_keys_is_capped() -> None:
    """A mapping of many or long keys does not fill the message."""
    with pytest.raises(errors.BindingError, match="… 980 more") as caught:
        bound(two, {f"{'k' * 1000}{i}": i for i in range(1000)})

    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (two, MappingProxyType({"a": 1, "b": 2}), (1, 2)),
        (lambda a=1, /, b=2, *, c=3: (a, b, c), {"b": 5, "c": 6}, (1, 5, 6)),
        (lambda *, a=1, b=2: (a, b), 7, (7, 2)),
        (lambda a, /, *, b=2: (a, b), {"a": 7}, ({"a": 7}, 2)),
        (lambda **kw: kw, {"a": 1, 2: 3}, {"a": 1}),
        (lambda *args, **kw: (args, kw), [1], ((1,), {})),
        (lambda a, b, **rest: (a, b, rest), {"a": 1, "b": 2, 3: 4}, (1, 2, {})),
        (functools.wraps(two)(functools.partial(two, b=2)), {"a": 1, "b": 3}, ({"a": 1, "b": 3}, 2)),
        (len, [1, 2], 2),
        (max, [1, 5], 5),
    ],
)
def test_kinds_of_parameters(function: Callable[..., Any], value: Any, expected: Any) -> None:
    """Positional-only, keyword-only, *args and **kwargs are bound as they are declared."""
    assert expected == bound(function, value)


def injected(data: dict[str, int], context: Context) -> Any:
    return data, context


def injected_first(context: Context, /, a: int, b: int) -> Any:
    return context, a, b


def injected_maybe(a: int, ctx: Context | None = None) -> Any:
    return a, ctx


def only_injected(ctx: Context) -> Any:
    return ctx


def injected_rest(ctx: Context, a: int, b: int, *rest: int) -> Any:
    return ctx, a, b, rest


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (injected, {"context": 1}, ({"context": 1}, CONTEXT)),
        (injected_first, {"a": 1, "b": 2, "context": 3}, (CONTEXT, 1, 2)),
        (injected_first, [1, 2], (CONTEXT, 1, 2)),
        (injected_maybe, 7, (7, CONTEXT)),
        (injected_maybe, {"a": 7, "ctx": 8}, (7, CONTEXT)),
        (functools.partial(injected_maybe, ctx=3), {"a": 7}, (7, 3)),
        (injected_by_key, {"url": "u", "ctx": 1}, (CONTEXT, "u")),
        (only_injected, {"ctx": 1}, CONTEXT),
        (injected_rest, [1, 2, 3], (CONTEXT, 1, 2, (3,))),
    ],
)
def test_context_is_injected(function: Callable[..., Any], value: Any, expected: Any) -> None:
    """A parameter annotated Context gets the context and never data."""
    assert expected == bound(function, value)


@pytest.mark.parametrize(
    "annotation",
    [
        *("Context", "Context | None", "None | Context", "Optional[Context]", "typing.Optional[Context]"),
        *("egregore_dist.Context", "egregore_dist.Context|None"),
    ],
)
def test_context_as_a_string(annotation: str) -> None:
    """Context is known by its name where the annotation cannot be resolved."""
    namespace: dict[str, Any] = {"__name__": "user"}
    exec(f"def f(a, c: {annotation!r}): return a, c", namespace)

    assert bound(namespace["f"], 7) == (7, CONTEXT)


@pytest.mark.parametrize("annotation", ["MyContext", "Context2", "list[Context]", "str"])
def test_what_only_looks_like_context(annotation: str) -> None:
    """Other names are data."""
    namespace: dict[str, Any] = {"__name__": "user"}
    exec(f"def f(a, c: {annotation!r}): return a, c", namespace)

    assert bound(namespace["f"], [7, 8]) == (7, 8)


def test_without_a_context() -> None:
    """Without a context, a default stays, and None is what there is otherwise."""
    assert bound(injected_maybe, 7, context=None) == (7, None)
    assert bound(only_injected, 7, context=None) is None


def converted(function: Callable[..., Any], value: Any) -> list[tuple[Any, Any, str]]:
    """The calls of the conversion."""
    calls: list[tuple[Any, Any, str]] = []

    def convert(value: Any, annotation: Any, where: str) -> Any:
        calls.append((value, annotation, where))
        return ("converted", value)

    args, kwargs = Parameters.of(function).bind("n", value, context=CONTEXT, convert=convert)
    passed = [*args, *kwargs.values()]
    assert [("converted", call[0]) for call in calls] == [
        item for item in passed if isinstance(item, tuple) and item[:1] == ("converted",)
    ]
    return calls


def test_annotated_values_are_converted() -> None:
    """Each bound value of an annotated parameter is converted, told where; defaults, context and the rest are not."""

    def f(a: int, b, ctx: Context, c: str = "c", d: bytes = b"d") -> None:  # type: ignore[no-untyped-def]
        pass

    assert [(1, int, "node 'n', parameter 'a'"), (3, bytes, "node 'n', parameter 'd'")] == converted(
        f, {"a": 1, "b": 2, "d": 3}
    )
    assert [("u", str, "node 'n', parameter 'url'")] == converted(text, {"url": "u"})
    assert [({"x": 1}, dict[str, int], "node 'n', parameter 'data'")] == converted(injected, {"x": 1})
    assert converted(one, 3) == []


def test_variadic_values_are_converted_one_by_one() -> None:
    """*args: int and **kwargs: str annotate each value."""

    def f(*args: int, **kwargs: str) -> None:
        pass

    assert [(1, int, "node 'n', parameter '*args'"), (2, int, "node 'n', parameter '*args'")] == converted(f, [1, 2])
    assert [(1, str, "node 'n', parameter '**kwargs'")] == converted(f, {"k": 1})


def test_unresolved_annotations_are_not_converted() -> None:
    """An annotation that cannot be resolved binds like none, and leaves the others alone."""

    def f(a: Unknown, b: int) -> Unknown:
        pass

    assert [(2, int, "node 'n', parameter 'b'")] == converted(f, {"a": 1, "b": 2})


def test_local_annotations_resolve() -> None:
    """A class of the enclosing function is found where the function refers to it."""

    @dataclasses.dataclass
    class Local:
        p: int

    def f(p: Local) -> Local:
        return Local(p.p)

    assert [({"p": 1}, Local, "node 'n', parameter 'p'")] == converted(f, {"p": 1})


def test_given_hints_are_used() -> None:
    """Hints that are resolved already are taken as they are."""
    parameters = Parameters.of(one, hints={"x": int})
    seen: list[Any] = []

    parameters.bind("n", {"x": 4}, context=None, convert=lambda *call: seen.append(call))

    assert [(4, int, "node 'n', parameter 'x'")] == seen


def test_callable_instances_and_methods() -> None:
    """self is no parameter."""

    class Adder:
        def __call__(self, a: int, b: int) -> int:
            return a + b

        def add(self, a: int, b: int) -> int:
            return a + b

    assert 3 == bound(Adder(), {"a": 1, "b": 2}) == bound(Adder().add, [1, 2])


# The rule once more, as a model that knows nothing of signatures.
def model(shape: Shape, value: Any) -> dict[str, Any] | None:
    """What the parameters hold, or None for a binding error."""
    parameters, rest, extra = shape
    held = defaults(shape)
    held |= {name: CONTEXT for name, _, _, annotation in parameters if annotation == ": Context"}
    rest_held: tuple[Any, ...] = ()
    extra_held: dict[str, Any] = {}
    data = [p for p in parameters if p[3] != ": Context"]
    required = [p[0] for p in data if not p[2]]
    one = [p for p in data if not p[2]] if required else data
    taken = [name for name, *_ in parameters]
    by_name = {p[0]: value[p[0]] for p in data if p[0] in value} if type(value) is dict else {}
    others = {k: v for k, v in value.items() if isinstance(k, str) and k not in taken} if type(value) is dict else {}
    others = others if extra else {}

    if not data:
        if type(value) is dict and extra:
            extra_held = others
        elif value is not None and rest:
            rest_held = tuple(value) if type(value) is list else (value,)
        elif value is not None and extra:
            return None
    elif not required or (len(required) == 1 and type(value) is not dict):
        if type(value) is dict:
            held |= by_name
            extra_held = others
        elif value is not None or required:
            held[one[0][0]] = value
    elif len(required) == 1 and one[0][3] != ": int":
        held[required[0]] = value
    elif type(value) is dict:
        if not set(required) <= value.keys():
            return None
        held |= by_name
        extra_held = others
    elif type(value) is list:
        places = [p[0] for p in data if p[1] != "keyword"]
        least = sum(name in places for name in required)
        if least < len(required) or len(value) < least or (len(value) > len(places) and not rest):
            return None
        held |= dict(zip(places, value, strict=False))
        rest_held = tuple(value[len(places) :])
    else:
        return None
    return held | ({"rest": rest_held} if rest else {}) | ({"extra": extra_held} if extra else {})


@given(shapes(), values)
def test_agrees_with_the_model(shape: Shape, value: Any) -> None:
    """For any function and any value, binding gives what the rules say."""
    expected = model(shape, value)
    function = function_of(shape)

    if expected is None:
        with pytest.raises(errors.BindingError):
            bound(function, value)
    else:
        assert expected == bound(function, value)


@given(shapes(), values, st.dictionaries(st.sampled_from("abcdxy"), st.integers(), max_size=6))
def test_what_a_value_contains_never_changes_the_rule(shape: Shape, value: Any, more: dict[str, int]) -> None:
    """Where one mapping is taken whole every mapping is, and keys of no parameter change nothing elsewhere."""
    function = function_of(shape)
    parameters = Parameters.of(function)

    if parameters.row is Line.WHOLE:
        assert parameters.main is not None
        for data in (value, more, {"a": value}):
            assert bound(function, data)[parameters.main.name] is data
    elif parameters.extra is None and type(value) is dict and parameters.row is not Line.NOTHING:
        known = {name: item for name, item in value.items() if name in parameters.names}
        assert outcome(function, known) == outcome(function, value | {"x": 1, "y": 2})


def outcome(function: Callable[..., Any], value: Any) -> Any:
    try:
        return bound(function, value)
    except errors.BindingError:
        return errors.BindingError
