"""Decoded values become what annotations ask for, and only where they ask."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
)

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.wire import codec

WHERE = "parameter 'order' of node 'ship'"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Point3:
    x: int
    y: int
    z: int


@dataclasses.dataclass
class Shape:
    name: str
    corners: list[Point]
    made: dt.date | None = None
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass
class Either:
    """msgspec refuses the union of two dataclasses."""

    choice: list[Point | Point3]
    when: dt.datetime | None = None


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


class Order(msgspec.Struct):
    id: uuid.UUID
    price: decimal.Decimal


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class User(pydantic.BaseModel):
    id: uuid.UUID
    born: dt.date
    nick: str = pydantic.Field("", alias="nickName")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    born: dt.date


@dataclasses.dataclass
class Account:
    owner: User
    key: bytes


class Pair(NamedTuple):
    left: int
    right: dt.date


class Plain(TypedDict):
    name: str


class Rich(TypedDict):
    name: str
    when: NotRequired[dt.date]


class Folder(TypedDict):
    made: dt.date
    inside: list[Folder]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Odd(enum.Enum):
    PAIR = (1, 2)
    DAY = dt.date(2026, 1, 2)


class Closable(Protocol):
    def close(self) -> None: ...


Meters = NewType("Meters", float)
Spot = NewType("Spot", Point)


def there(value: Any, annotation: Any) -> Any:
    return codec.convert(codec.decode(codec.encode(value, where="a test")), annotation, WHERE)


USER = User(id=uuid.UUID(int=1), born=dt.date(2026, 1, 2), nickName="u")
ORDER = Order(uuid.UUID(int=2), decimal.Decimal("1.10"))
DAY = dt.date(2026, 1, 2)
NOON = dt.datetime(2026, 1, 2, 12, 30, 1, 5)  # noqa: DTZ001  # naive on purpose
UTC_NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Point(1, 2), Point),
        (Shape("s", [Point(1)], DAY, frozenset({"t"})), Shape),
        (Either([Point(1), Point3(1, 2, 3)], NOON), Either),
        (Tree(1, [Tree(2, [Tree(3)])]), Tree),
        (Box(Point(1)), Box[Point]),
        (ORDER, Order),
        (USER, User),
        (Strict(born=DAY), Strict),
        (Account(USER, b"\x00"), Account),
        (Pair(1, DAY), Pair),
        ({"name": "n", "when": DAY}, Rich),
        ({"made": DAY, "inside": [{"made": DAY, "inside": []}]}, Folder),
        (Colour.RED, Colour),
        (Size.SMALL, Size),
        (Access.READ | Access.WRITE, Access),
        (Odd.PAIR, Odd),
        (Odd.DAY, Odd),
        (Colour.RED, Literal[Colour.RED]),
        (NOON, dt.datetime),
        (UTC_NOON, dt.datetime),
        (DAY, dt.date),
        (dt.time(1, 2, 3, 4), dt.time),
        (dt.timedelta(days=-1, microseconds=5), dt.timedelta),
        (dt.timedelta.max, dt.timedelta),
        (uuid.UUID(int=3), uuid.UUID),
        (decimal.Decimal("1.10"), decimal.Decimal),
        (b"\x00\xff", bytes),
        (bytearray(b"a"), bytearray),
        ({1, 2}, set),
        ({1, 2}, set[int]),
        ({(1, 2)}, set),
        ({(1, (2, 3))}, set[tuple[int, tuple[int, int]]]),
        ({Point(1)}, set[Point]),
        (frozenset({DAY}), frozenset[dt.date]),
        (frozenset({1}), collections.abc.Set[int]),
        ((1, "a"), tuple),
        ((1, Point(2)), tuple[int, Point]),
        ((DAY, DAY), tuple[dt.date, ...]),
        ((), tuple[()]),
        ((), tuple[int, ...]),
        ([Point(1)], list[Point]),
        ([Point(1)], Sequence[Point]),
        ([Point(1)], Iterable[Point]),
        ([Point(1)], typing.List[Point]),  # noqa: UP006  # the old spelling is what is tested
        ({"a": Point(1)}, dict[str, Point]),
        ({DAY: 1}, dict[dt.date, int]),
        ({(1, 2): DAY}, Mapping[tuple[int, int], dt.date]),
        ({"a": [{"b": (1, {2})}]}, dict[str, list[dict[str, tuple[int, set[int]]]]]),
        (None, Point | None),
        (Point(1), Point | None),
        (Point(1), Optional[Point]),  # noqa: UP045  # the old spelling is what is tested
        (Point(1), Annotated[Point, "note"]),
        (Point(1), Annotated[Point, ["not hashable"]]),
        ([Point(1)], list[Annotated[Point, "note"]]),
        (Point(1), Spot),
        (Point(1), Point | Point3),
        (Point3(1, 2, 3), Point | Point3),
        (Point3(1, 2, 3), Union[Point, Point3]),  # noqa: UP007  # the old spelling is what is tested
        (Cat("c"), Cat | Dog),
        (Dog("d"), Cat | Dog),
        (USER, Point | User),
        ([Point(1), Point3(1, 2, 3)], list[Point | Point3]),
        (3, int | Point),
        ("text", dt.date | str),
        (DAY, dt.date | str),
        (DAY, int | dt.date),
        ({"free": 1}, Point | dict[str, int]),
        ([1], Point | list[int]),
        (b"a", str | bytes),
        ("a", str | bytes),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rich_values_come_back(value: Any, annotation: Any) -> None:
    """A value that travelled is what it was, under the annotation that says so."""
    back = there(value, annotation)

    assert back == value
    assert type(back) is type(value)


@given(
    st.dictionaries(
        st.text(),
        st.tuples(
            st.dates(), st.frozensets(st.uuids(allow_nil=True)), st.builds(Point, st.integers(-9, 9)) | st.none()
        ),
    )
)
def test_nested_rich_values_come_back(value: Any) -> None:
    """Rich types inside each other come back, whatever their values."""
    assert there(value, dict[str, tuple[dt.date, frozenset[uuid.UUID], Point | None]]) == value


@given(st.tuples(st.datetimes(), st.times(), st.timedeltas(), st.decimals(allow_nan=False), st.binary()))
def test_scalars_come_back(values: tuple[Any, ...]) -> None:
    """Every naive datetime, time, timedelta, Decimal and bytes comes back."""
    annotation = tuple[dt.datetime, dt.time, dt.timedelta, decimal.Decimal, bytes]

    assert there(values, annotation) == values


@given(st.datetimes(timezones=st.timezones(), min_value=dt.datetime(1900, 1, 1), max_value=dt.datetime(2200, 1, 1)))  # noqa: DTZ001
def test_aware_datetimes_keep_their_instant(value: dt.datetime) -> None:
    """An aware datetime comes back as the same instant, in UTC, with or without an annotation."""
    for annotation in (dt.datetime, Any):
        back = there(value, annotation)

        assert back.astimezone(dt.UTC) == value.astimezone(dt.UTC)
        assert back.utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize(
    "annotation",
    [
        Any,
        object,
        int,
        str,
        dict,
        list,
        list[int],
        dict[str, int],
        int | None,
        Literal["a"],
        "Unresolved",
        None,
        T,
        Meters,
        Plain,
        Closable,
        Callable[[Point], Point],
        type[Point],
        Annotated[int, "note"],
        Optional["Unresolved"],  # noqa: F821  # what the check reads as a name is text
        list[Any],
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [{"x": 1}, [{"x": 1}], "2026-01-02", 3.5, None])
def test_plain_annotations_pass_values_untouched(annotation: Any, value: Any) -> None:
    """An annotation with nothing to build neither checks nor copies, as in Python."""
    assert codec.convert(value, annotation, WHERE) is value


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Point(1), Point),
        (USER, User),
        (ORDER, Order),
        (DAY, dt.date),
        (NOON, dt.date),
        (Colour.RED, Colour),
        ((1, 2), tuple[int, int]),
        ({1}, set[int]),
        (b"a", bytes),
        (Pair(1, DAY), Pair),
        (Point(1), Point | None),
        (type("Sub", (Point,), {})(1), Point),
    ],
    ids=str,
)
def test_what_is_one_already_passes(value: Any, annotation: Any) -> None:
    """An instance of what is asked for is handed on as it is."""
    assert codec.convert(value, annotation, WHERE) is value


@pytest.mark.parametrize(
    ("value", "annotation", "said"),
    [
        ({"y": 1}, Point, r": expected Point, got a mapping with the keys 'y' \(.*missing required field `x`"),
        (7, Point, ": expected Point, got int"),
        ([{"x": 1}, {"x": "a"}], list[Point], r" at \[1\]: expected Point.*Expected `int`, got `str` - at `\$\.x`"),
        ({"k": {"a": 3}}, dict[str, dict[str, dt.date]], r" at \['k'\]\['a'\]: expected date, got int"),
        ("text", bytes, ": expected bytes, got str"),
        ("yellow", Colour, ": expected Colour, got str"),
        ([1, 2, 3], tuple[int, int], r": expected tuple\[int, int\], got a list of 3 items"),
        (3, set[int], r": expected set\[int\], got int"),
        ([{}], set[Any], "unhashable"),
        ({}, list[Point], r": expected list\[.*Point\], got an empty mapping"),
        ("text", list[Point], "got str"),
        ([], dict[str, Point], "got a list of 0 items"),
        ([1, "2026-01-02", 3], Pair, ": expected Pair, got a list of 3 items"),
        ([1], Pair, "missing 1 required positional argument"),
        ([1, 2], Pair, r" at \.right: expected date"),
        ({"id": "no", "born": "2026-01-02"}, User, ": expected User, got a mapping.*id: Input should be a valid UUID"),
        ({"name": "n", "when": 3}, Rich, r" at \['when'\]: expected date, got int"),
        (3, Rich, ": expected Rich, got int"),
        ("no", dt.date | None, ": expected date, got str"),
        ({"q": 1}, Point | Point3, "expected .*Point.*Point3, got a mapping with the keys 'q'"),
        ({"choice": [{"q": 1}]}, Either, r" at \.choice\[0\]: expected"),
        ({"when": None}, Either, "expected Either, got a mapping with the keys 'when'.*missing"),
        (3, Either, "expected Either, got int"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, annotation: Any, said: str) -> None:
    """The error says which parameter, where inside, what was asked for and what came."""
    with pytest.raises(errors.BindingError, match=rf"^{WHERE}.*{said}"):
        codec.convert(value, annotation, WHERE)


def test_errors_show_no_content() -> None:
    """The content of a payload stays out of the message; types and keys are enough."""
    with pytest.raises(errors.BindingError) as caught:
        codec.convert({"id": "s3cret", "born": "s3cret"}, User, WHERE)

    assert "s3cret" not in str(caught.value)


def test_a_failed_branch_is_kept_among_rich_ones() -> None:
    """Under on_error="collect", one entry may be a BranchError where the annotation names a record."""
    bad = errors.BranchError("b", message="no")

    mappings: tuple[Any, ...] = (dict[str, Point], dict[str, Point | None], dict[str, list[Point]], dict[str, set[int]])
    for annotation in mappings:
        assert codec.convert({"b": bad}, annotation, WHERE)["b"] is bad
    assert codec.convert([{"x": 1}, bad], list[Point], WHERE) == [Point(1), bad]
    for annotation in (Rich, tuple[int, Point], dict[str, Point], Pair, User, bytes, Colour, Either, dt.date):
        assert codec.convert(bad, annotation, WHERE) is bad


def test_long_lists_convert_like_short_ones() -> None:
    """Long lists are converted in one go; errors, failed branches and odd classes are as in short ones."""
    long: list[Any] = [{"x": number} for number in range(100)]
    bad = errors.BranchError("b")

    assert codec.convert(long, list[Point], WHERE) == [Point(number) for number in range(100)]
    assert codec.convert([*long, bad], list[Point], WHERE)[-1] is bad
    assert codec.convert(["2026-01-02"] * 100, list[dt.date], WHERE) == [DAY] * 100
    assert codec.convert([{"choice": [{"x": 1}]}] * 100, list[Either], WHERE) == [Either([Point(1)])] * 100
    with pytest.raises(errors.BindingError, match=r"at \[100\]: expected Point, got int"):
        codec.convert([*long, 3], list[Point], WHERE)


def test_the_order_of_a_union_decides() -> None:
    """Of members that fit equally, the first wins, also where another order was seen before."""
    assert codec.convert("2026-01-02", list[str | dt.date] | dt.date | str, WHERE) == DAY
    assert codec.convert("2026-01-02", dt.date | str, WHERE) == DAY
    assert codec.convert("2026-01-02", str | dt.date, WHERE) == "2026-01-02"
    assert codec.convert(["2026-01-02"], list[dt.date | str], WHERE) == [DAY]
    assert codec.convert(["2026-01-02"], list[str | dt.date], WHERE) == ["2026-01-02"]


def test_a_typed_dict_keeps_keys_it_does_not_know() -> None:
    """A TypedDict is a dict: what its class does not name is not dropped."""
    assert codec.convert({"name": "n", "when": "2026-01-02", "more": 1}, Rich, WHERE) == {
        "name": "n",
        "when": DAY,
        "more": 1,
    }


def test_text_is_never_taken_for_bytes() -> None:
    """Text in a field of bytes is an error, not base64."""
    with pytest.raises(errors.BindingError, match="Expected `bytes`, got `str`"):
        codec.convert({"owner": {"id": str(USER.id), "born": "2026-01-02"}, "key": "abcd"}, Account, WHERE)


def test_many_annotations_are_decided_anew() -> None:
    """More annotations than are remembered still convert."""
    for _ in range(5000):
        assert codec.convert({"x": 1}, Annotated[Point, object()], WHERE) == Point(1)
