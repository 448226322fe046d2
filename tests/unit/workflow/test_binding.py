"""Binding data to parameters."""

from __future__ import annotations

import builtins
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.workflow import Context
from egregore_dist.workflow.binding import Parameters

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

CONTEXT = Context(run="r", workflow="w", block=None, branch=None, node="n", attempt=1)
MISSING = object()


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


def with_default(a, b=5):  # type: ignore[no-untyped-def]
    return a, b


def all_defaults(a=1, b=2):  # type: ignore[no-untyped-def]
    return a, b


def nothing() -> str:
    return "called"


def text(url: str) -> str:
    return url


def injected_by_key(*, ctx: Optional[Context], url: str) -> Any:  # noqa: UP045
    return ctx, url


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
    """A class that a function may make of a mapping takes its key, and without that the whole."""
    assert bound(taking(annotation), {"p": "value", "q": 1}) == "value"
    assert bound(taking(annotation, has_default=True), {"q": 1}) == {"q": 1}


@given(
    st.lists(st.sampled_from([*NEVER, *MADE, *MAPPINGS]), min_size=1, max_size=3),
    st.booleans(),
    st.dictionaries(st.sampled_from(["p", "P", "q", 1]), st.integers(), max_size=3),
)
def test_a_mapping_for_one_parameter(members: list[Any], has_default: bool, value: dict[Any, Any]) -> None:
    """Of any union, a mapping is bound whole where it fits, by key where it does not, and a missing key is an error."""
    union = functools.reduce(lambda some, more: Union[some, more], members)  # noqa: UP007
    function = taking(union, has_default=has_default)

    if any(member in MAPPINGS for member in members):
        assert bound(function, value) == value
    elif "p" in value:
        assert bound(function, value) == value["p"]
    elif any(member in MADE for member in members):
        assert bound(function, value) == value
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
    ("function", "value", "expected"),
    [
        (two, {"a": 1, "b": 2, "c": 3}, (1, 2)),
        (two, MappingProxyType({"a": 1, "b": 2}), (1, 2)),
        (two, [1, 2], (1, 2)),
        (two, (1, 2), (1, 2)),
        (two, {"a": None, "b": None}, (None, None)),
        (with_default, {"a": 1}, (1, 5)),
        (with_default, {"a": 1, "b": 2}, (1, 2)),
        (with_default, [1], (1, 5)),
        (with_default, [1, 2], (1, 2)),
        (with_default, 7, (7, 5)),
        (with_default, "text", ("text", 5)),
        (with_default, None, (None, 5)),
        (all_defaults, None, (1, 2)),
        (all_defaults, {}, (1, 2)),
        (all_defaults, {"b": 3}, (1, 3)),
        (all_defaults, [], (1, 2)),
        (all_defaults, [3], (3, 2)),
    ],
)
def test_two_or_more(function: Callable[..., Any], value: Any, expected: Any) -> None:
    """With two or more parameters, mappings bind by name, lists by position, single values to what is required."""
    assert expected == bound(function, value)


@pytest.mark.parametrize(
    ("function", "value", "message"),
    [
        (two, {"a": 1, "x": 2}, r"^node 'n' needs 'b', missing from its input; the keys that were there: 'a', 'x'$"),
        (two, {}, r"needs 'a', 'b', missing from its input; the keys that were there: none"),
        (two, [1], r"needs 'b', missing from its input: a list of 1, which is bound by position"),
        (two, (1, 2, 3), r"takes 2 values by position \('a', 'b'\), but its input, a tuple, has 3"),
        (two, 7, r"takes 'a', 'b', but was given a single int: give a mapping with these keys, or a list"),
        (two, None, r"takes 'a', 'b', but was given None"),
        (two, "ab", r"given a single str"),
        (with_default, {"b": 1}, r"needs 'a', missing"),
        (with_default, [1, 2, 3], r"has 3"),
        (all_defaults, 7, r"given a single int"),
        (lambda *, a, b: None, [1, 2], r"takes 0 values by position \(none\)"),
        (lambda a, *, b: None, [1], r"needs 'b', missing"),
        (lambda **kw: None, 3, r"takes keyword arguments only, but was given a value of type int"),
        (lambda **kw: None, [3], r"takes keyword arguments only"),
        (text, {"ur": "x"}, r"^node 'n' needs 'url', missing from its input; the keys that were there: 'ur'$"),
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
        (lambda a, /, b: (a, b), {"a": 1, "b": 2}, (1, 2)),
        (lambda a=1, /, b=2, *, c=3: (a, b, c), {"b": 5, "c": 6}, (1, 5, 6)),
        (lambda a, *, b: (a, b), {"a": 1, "b": 2}, (1, 2)),
        (lambda a, *, b=2: (a, b), [1], ([1], 2)),
        (lambda *, a, b=2: (a, b), 7, (7, 2)),
        (lambda *, a: a, {"q": 1}, {"q": 1}),
        (lambda a, /: a, 3, 3),
        (lambda *args: args, [1, 2], (1, 2)),
        (lambda *args: args, 7, (7,)),
        (lambda *args: args, {"a": 1}, ({"a": 1},)),
        (lambda *args: args, None, ()),
        (lambda **kw: kw, {"a": 1, 2: 3}, {"a": 1}),
        (lambda **kw: kw, None, {}),
        (lambda *args, **kw: (args, kw), {"a": 1}, ((), {"a": 1})),
        (lambda *args, **kw: (args, kw), [1], ((1,), {})),
        (lambda a, *rest: (a, rest), [1, 2, 3], (1, (2, 3))),
        (lambda a, *rest: (a, rest), {"a": 1}, ({"a": 1}, ())),
        (lambda a, *rest: (a, rest), 7, (7, ())),
        (lambda a, b=2, *rest: (a, b, rest), [1], (1, 2, ())),
        (lambda a, b=2, *rest: (a, b, rest), [1, 3, 4, 5], (1, 3, (4, 5))),
        (lambda a, **rest: (a, rest), {"a": 1, "b": 2, 3: 4}, (1, {"b": 2})),
        (lambda a, **rest: (a, rest), {"b": 2}, ({"b": 2}, {})),
        (lambda a, b, **rest: (a, b, rest), {"a": 1, "b": 2, "c": 3}, (1, 2, {"c": 3})),
        (lambda a, b, /, **rest: (a, b, rest), {"a": 1, "b": 2, "c": 3}, (1, 2, {"c": 3})),
        (functools.partial(two, b=2), {"a": 1, "b": 3}, (1, 3)),
        (functools.partial(two, 9), {"b": 3}, (9, {"b": 3})),
        (len, [1, 2], 2),
        (max, [1, 5], 5),
    ],
)
def test_kinds_of_parameters(function: Callable[..., Any], value: Any, expected: Any) -> None:
    """Positional-only, keyword-only, *args and **kwargs are bound as they are declared."""
    assert expected == bound(function, value)


def test_none_for_a_default() -> None:
    """None leaves a default alone where the type does not allow None, and replaces it where it does."""

    def limited(limit: int = 10) -> int:
        return limit

    def optional(limit: int | None = 10) -> int | None:
        return limit

    assert bound(limited, None) == 10
    assert bound(optional, None) is None
    assert bound(lambda limit=10: limit, None) is None


def injected(data: dict[str, int], context: Context) -> Any:
    return data, context


def injected_first(context: Context, /, a: int, b: int) -> Any:
    return context, a, b


def injected_maybe(a: int, ctx: Context | None = None) -> Any:
    return a, ctx


def only_injected(ctx: Context) -> Any:
    return ctx


def injected_rest(ctx: Context, a: int, *rest: int) -> Any:
    return ctx, a, rest


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (injected, {"context": 1}, ({"context": 1}, CONTEXT)),
        (injected_first, {"a": 1, "b": 2, "context": 3}, (CONTEXT, 1, 2)),
        (injected_first, [1, 2], (CONTEXT, 1, 2)),
        (injected_maybe, 7, (7, CONTEXT)),
        (injected_maybe, {"a": 7, "ctx": 8}, (7, CONTEXT)),
        (injected_by_key, {"url": "u", "ctx": 1}, (CONTEXT, "u")),
        (only_injected, {"ctx": 1}, CONTEXT),
        (injected_rest, [1, 2, 3], (CONTEXT, 1, (2, 3))),
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


# The rules once more, as a model that knows nothing of signatures: a function is a list of (name, kind, default,
# annotation), and the model says what its parameters hold in the end.
KINDS = ["positional", "any", "keyword"]
Shape = tuple[list[tuple[str, str, bool, str]], bool, bool]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    count = draw(st.integers(0, 4))
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS), min_size=count, max_size=count)), key=KINDS.index)
    parameters, defaulted = [], False
    for name, kind in zip("abcd", kinds, strict=False):
        chosen = draw(st.booleans())
        defaulted = chosen or (defaulted and kind != "keyword")
        parameters.append((name, kind, defaulted, draw(st.sampled_from(["", ": dict", ": int", ": Context"]))))
    return parameters, draw(st.booleans()), draw(st.booleans())


def function_of(shape: Shape) -> Callable[..., Any]:
    parameters, rest, extra = shape
    written: list[str] = []
    previous = "positional"
    starred = False
    for name, kind, default, annotation in parameters:
        if previous == "positional" != kind and written:
            written.append("/")
        if kind == "keyword" and not starred:
            written.append("*rest" if rest else "*")
            starred = True
        written.append(f"{name}{annotation}{' = MISSING' if default else ''}")
        previous = kind
    if parameters and previous == "positional":
        written.append("/")
    if rest and not starred:
        written.append("*rest")
    if extra:
        written.append("**extra")
    namespace = {"MISSING": MISSING, "Context": Context, "dict": dict, "int": int, "locals": builtins.locals}
    exec(f"def f({', '.join(written)}): return dict(locals())", namespace)
    made: Callable[..., Any] = namespace["f"]  # type: ignore[assignment]
    return made


def model(shape: Shape, value: Any) -> dict[str, Any] | None:
    """What the parameters hold, or None for a binding error."""
    parameters, rest, extra = shape
    held = {name: MISSING for name, *_ in parameters}
    held |= {name: CONTEXT for name, _, _, annotation in parameters if annotation == ": Context"}
    rest_held: tuple[Any, ...] = ()
    extra_held: dict[str, Any] = {}
    data = [p for p in parameters if p[3] != ": Context"]
    required = [p[0] for p in data if not p[2]]
    names = [name for name, *_ in parameters]
    others = {k: v for k, v in value.items() if isinstance(k, str) and k not in names} if type(value) is dict else {}

    if len(data) == 1 and not (rest and type(value) is list):
        name, _, default, annotation = data[0]
        if value is None and default and annotation in (": int", ": dict"):
            pass
        elif type(value) is dict and name in value and (extra or annotation == ": int"):
            held[name], extra_held = value[name], others
        elif type(value) is dict and annotation == ": int":
            if not default:
                return None
            extra_held = others
        else:
            held[name] = value
    elif not data:
        if type(value) is dict and extra:
            extra_held = others
        elif value is not None and rest:
            rest_held = tuple(value) if type(value) is list else (value,)
        elif value is not None and extra:
            return None
    elif type(value) is dict:
        if not set(required) <= value.keys():
            return None
        held |= {p[0]: value[p[0]] for p in data if p[0] in value}
        extra_held = others
    elif type(value) is list:
        places = [p[0] for p in data if p[1] != "keyword"]
        if len(places) == 1 and not rest and set(required) <= set(places):
            # The others are keyword-only and have defaults: the list is meant as a whole.
            value = [value]
        if len(value) > len(places) and not rest:
            return None
        held |= dict(zip(places, value, strict=False))
        rest_held = tuple(value[len(places) :])
        if any(name not in places[: len(value)] for name in required):
            return None
    elif len(required) == 1:
        held[required[0]] = value
    elif required or value is not None:
        return None
    return held | ({"rest": rest_held} if rest else {}) | ({"extra": extra_held} if extra else {})


values = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=2),
    st.lists(st.integers(), max_size=6),
    st.dictionaries(st.one_of(st.sampled_from("abcdxy"), st.integers(0, 2)), st.integers(), max_size=6),
)


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
