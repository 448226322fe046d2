"""The digest of a value: equal values have one, in every process."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import itertools
import subprocess
import sys
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from egregore_dist import errors
from egregore_dist.wire import codec, digest

UTC = dt.datetime(2026, 12, 3, 12, tzinfo=dt.UTC)
Pair = namedtuple("Pair", "a b")


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    pass


class Number(int):
    pass


@dataclass
class Order:
    id: int
    tags: set[Any] = field(default_factory=set)


class Parcel(msgspec.Struct):
    id: int
    tags: set[Any]


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Line(msgspec.Struct, tag="line", array_like=True):
    name: str


class Circle(msgspec.Struct, tag="circle", array_like=True):
    name: str


class Partial(msgspec.Struct):
    name: str
    age: int | msgspec.UnsetType = msgspec.UNSET


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str


class Model(pydantic.BaseModel):
    id: int
    tags: set[Any]


class Shipment:
    """One class before and after a deploy that adds fields with defaults, in each of the ways to write it."""

    @dataclass
    class Dataclass:
        id: int

    @dataclass
    class GrownDataclass(Dataclass):
        express: bool = False
        notes: list[str] = field(default_factory=list)

    class Struct(msgspec.Struct):
        id: int

    class GrownStruct(Struct):
        express: bool = False
        notes: list[str] = msgspec.field(default_factory=list)

    class Model(pydantic.BaseModel):
        id: int

    class GrownModel(Model):
        express: bool = False
        notes: list[str] = pydantic.Field(default_factory=list)


def unlucky() -> list[str]:
    raise OSError


@dataclass
class Unlucky:
    id: int
    notes: list[str] = field(default_factory=unlucky)


leaves = (
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats(allow_nan=False)
    | some.text()
    | some.binary()
)
keys = some.text() | some.integers(0, 2**40) | some.tuples(some.integers(0, 9), some.text())
values = some.recursive(
    leaves,
    lambda inner: some.lists(inner) | some.dictionaries(keys, inner) | some.sets(some.integers(0, 2**40) | some.text()),
    max_leaves=20,
)


def shuffled(value: Any) -> Any:
    """An equal value whose mappings are in another order."""
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_the_order_of_keys_does_not_matter(value: Any) -> None:
    """An equal value has the same digest, however its mappings were filled."""
    assert digest.of(shuffled(value)) == digest.of(value)


@given(values, values)
def test_other_values_have_other_digests(one: Any, other: Any) -> None:
    """Values that arrive as something else are told apart."""
    arrive = [codec.decode(codec.encode(value, where="it")) for value in (one, other)]
    if arrive[0] != arrive[1]:
        assert digest.of(one) != digest.of(other)


@given(some.dictionaries(some.text(), leaves, max_size=20))
@example({"a" * n: n for n in range(300)})
@example({str(n): n for n in range(70_000)})
def test_it_does_not_depend_on_who_orders_the_keys(value: dict[str, Any]) -> None:
    """Keys that are text to this process, and keys that become text when they are encoded, are ordered alike."""
    assert digest.of({Text(key): item for key, item in value.items()}) == digest.of(value)


EQUAL: list[tuple[Any, ...]] = [
    ({"a": 1, 2: "b", (3, 4): None}, {(3, 4): None, 2: "b", "a": 1}, OrderedDict([(2, "b"), ("a", 1), ((3, 4), None)])),
    ([1, 2], (1, 2), range(1, 3), Pair(1, 2), [Number(1), 2], {1: 0, 2: 0}.keys()),
    ({1, "a", 2.5, None, (1, "x"), b"y"}, {b"y", (1, "x"), None, 2.5, "a", 1}),
    ({frozenset({1}), frozenset({2})}, {frozenset({2}), frozenset({1})}),
    ("red", Colour.RED, Text("red")),
    (UTC, UTC.astimezone(dt.timezone(dt.timedelta(hours=5)))),
    (Order(1, {1, "a"}), Parcel(1, {"a", 1}), Model(id=1, tags={1, "a"}), {"tags": {"a", 1}, "id": 1}),
    (float("nan"), float("nan")),
    (Cat("x"), {"type": "Cat", "name": "x"}),
    (Partial("x"), {"name": "x"}),
    (Renamed("x"), {"firstName": "x"}),
]


@pytest.mark.parametrize("values", EQUAL, ids=range(len(EQUAL)))
def test_equal_values_have_one_digest(values: tuple[Any, ...]) -> None:
    """What a node gets as the same has one digest, whatever its type here."""
    assert len({digest.of(value) for value in values}) == 1
    assert len({digest.of([{"in": value}]) for value in values}) == 1


DIFFERENT: tuple[Any, ...] = (
    *(1, 1.0, True, "1", b"1", None, "", b"", 0, False, [], {}, [[]], [{}], {"": []}, [1], [1, 1], [[1], 1], [[1, 1]]),
    *({"a": 1}, ["a", 1], [["a", 1]], {"a": {"b": 1}}, {"a": ["b", 1]}, {"1": 1}, {1: 1}, {(1,): 1}, {1, 2}, [2, 1]),
    *(UTC, UTC.replace(tzinfo=None), UTC.date(), decimal.Decimal("1.0"), decimal.Decimal("1.00"), uuid.UUID(int=1)),
    *(Cat("x"), Dog("x"), Line("x"), Circle("x"), {"name": "x"}),
    *(Order(1), Order(2), Order(1, {1}), dt.timedelta(1), Colour.RED, errors.BranchError("b"), errors.BranchError("c")),
)


def test_different_values_have_different_digests() -> None:
    """Neither types nor places are mixed up."""
    for (at, one), (other_at, other) in itertools.combinations(enumerate(DIFFERENT), 2):
        assert digest.of(one) != digest.of(other), (at, one, other_at, other)


def test_it_is_the_same_in_every_process() -> None:
    """The order that sets of text happen to have in one process does not matter."""
    program = """
from egregore_dist.wire import digest
words = {"a", "b", "c", "d", "e", ("f", "g"), None, 1}
print(list(words), digest.of({"x": words, "y": [frozenset(words)]}))
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(said) > 1  # the sets were in different orders
    assert len({line.split()[-1] for line in said}) == 1


def test_it_does_not_change_between_releases() -> None:
    """It is stored with runs: a submission that is repeated after a deploy gives the same one."""
    value = {"id": 42, "tags": {"b", "a"}, "at": UTC, "rows": [{"x": 1.5, "y": None}, [1, True, b"z"]]}

    assert digest.of(value) == "89bd3a29e94849d34b9211201973c2c879c6164ffee68074e10349a1f26685d9"


GROWN: list[tuple[type[Any], type[Any]]] = [
    (Shipment.Dataclass, Shipment.GrownDataclass),
    (Shipment.Struct, Shipment.GrownStruct),
    (Shipment.Model, Shipment.GrownModel),
]


@pytest.mark.parametrize(("before", "after"), GROWN)
def test_a_field_that_has_its_default_changes_nothing(before: type[Any], after: type[Any]) -> None:
    """A retry after a deploy that adds a field with a default is the same submission; with another value it is not."""
    assert digest.of(before(id=1)) == digest.of(after(id=1))
    assert digest.of({"rows": [before(id=1)]}) == digest.of({"rows": [after(id=1, notes=[])]})
    assert len({digest.of(after(id=1, **fields)) for fields in ({}, {"express": True}, {"notes": [""]})}) == 3


def test_a_default_that_cannot_be_made_is_no_default() -> None:
    """The factory of a default may fail; the field counts then."""
    assert digest.of(Unlucky(1, ["a"])) == digest.of({"id": 1, "notes": ["a"]})
