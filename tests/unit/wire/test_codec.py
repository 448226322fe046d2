"""Values as MessagePack: what travels, what does not, and assembly without decoding."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import Run, errors
from egregore_dist.wire import codec

WHERE = "the value returned by node 'load'"


def taken_apart(raw: bytes) -> list[tuple[Any, bytes]]:
    """The entries of an encoded list or mapping: each its key, and its value, still encoded."""
    entries = codec.split(raw)
    return [(key, entries.value(at)) for at, key in enumerate(entries.keys)]


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: Any = 0


class Order(msgspec.Struct):
    id: int
    lines: Any = ()


class Model(pydantic.BaseModel):
    name: str
    extra: Any = None


class Link(pydantic.BaseModel):
    url: pydantic.HttpUrl


class Pair(NamedTuple):
    left: int
    right: Any


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


def journey(value: Any) -> Any:
    return codec.decode(codec.encode(value, where=WHERE))


keys = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.booleans(),
    lambda inner: st.tuples(inner, inner),
    max_leaves=4,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


@given(plain)
def test_plain_data_comes_back_as_it_went(value: Any) -> None:
    """Plain data, with any hashable plain keys, comes back equal."""
    assert journey(value) == value


@given(st.binary())
def test_any_bytes_decode_or_are_refused(raw: bytes) -> None:
    """Whatever bytes are stored, decoding gives a value or an EncodingError."""
    with contextlib.suppress(errors.EncodingError):
        codec.decode(raw)


@pytest.mark.parametrize("key", [1, -1, None, True, 1.5, "1", b"1", (1, "a"), (1, (2, None))])
def test_keys_keep_their_types(key: Any) -> None:
    """A key that is not text stays what it was."""
    (back,) = journey({key: "value"})

    assert (back, type(back)) == (key, type(key))


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (Point(1, 2), {"x": 1, "y": 2}),
        (Order(1, [2]), {"id": 1, "lines": [2]}),
        (Model(name="a", extra={1}), {"name": "a", "extra": [1]}),
        (Link(url="https://example.com/a"), {"url": "https://example.com/a"}),
        (Pair(1, "b"), [1, "b"]),
        (Colour.RED, "red"),
        ((1, 2), [1, 2]),
        ({1}, [1]),
        (frozenset({1}), [1]),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)),
        (dt.datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),  # noqa: DTZ001  # naive on purpose
        (dt.time(1, 2), "01:02:00"),
        (dt.timedelta(minutes=1), "PT60S"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (Text("a"), "a"),
        (Whole(1), 1),
        (Real(1.5), 1.5),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        ([Point(1, [Model(name="b")])], [{"x": 1, "y": [{"name": "b", "extra": None}]}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rich_values_travel_as_plain_ones(value: Any, seen: Any) -> None:
    """What a rich value is on the wire, before any annotation asks for its type."""
    assert journey(value) == seen


def test_an_array_scalar_travels_as_its_item() -> None:
    """A numpy scalar is recognised without numpy, and travels as the Python number it holds."""
    scalar = type("int64", (), {"__module__": "numpy", "shape": (), "item": lambda self: 7})

    assert journey({"n": scalar()}) == {"n": 7}


def test_not_a_number_stays_not_a_number() -> None:
    """NaN and the infinities travel."""
    back = journey([math.nan, math.inf, -math.inf])

    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
def test_the_largest_integers_travel(number: int) -> None:
    """Integers of 64 bits travel, up to the last."""
    assert journey(number) == number


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_larger_integers_are_refused(number: int) -> None:
    """One beyond 64 bits is refused, with the way out."""
    with pytest.raises(errors.EncodingError, match=r"int at \['n'\]\. Integers must lie within 64 bits.*str\(value\)"):
        codec.encode({"n": number}, where=WHERE)


def iter_of_nothing() -> Iterator[int]:
    yield from ()


class _Array:
    """Looks like an array of numpy."""

    def tolist(self) -> list[int]:
        return []


_Array.__module__ = "numpy"
_Array.__qualname__ = "ndarray"


def of_library(module: str, name: str) -> Any:
    """Looks like a value of a library that is not installed."""
    made = type(name, (), {})
    made.__module__ = module
    return made()


# The one way that makes plain data of everything that a frame may hold; tried with pandas 3.1.
RECORDS = r'json\.loads\(frame\.to_json\(orient="records", date_format="iso"\)\)'


@dataclasses.dataclass
class Holder:
    inside: Any


@pytest.mark.parametrize(
    ("value", "named", "cure"),
    [
        (_Array(), r"numpy\.ndarray", r"\.tolist\(\)"),
        (of_library("pandas", "DataFrame"), r"pandas\.DataFrame", f"Return {RECORDS}, or write the frame to a file"),
        (of_library("pandas", "Series"), r"pandas\.Series", r"Return json\.loads\(series\.to_json\("),
        (of_library("pandas", "Timestamp"), r"pandas\.Timestamp", rf"value\.to_pydatetime\(\), .*{RECORDS}"),
        (of_library("pandas", "Timedelta"), r"pandas\.Timedelta", rf"value\.to_pytimedelta\(\), .*{RECORDS}"),
        (of_library("pandas.api.typing", "NaTType"), "NaTType", f"Return None in its place.*{RECORDS}"),
        (of_library("pandas.api.typing", "NAType"), "NAType", f"Return None in its place.*{RECORDS}"),
        (of_library("pandas", "Period"), r"pandas\.Period", r"Return str\(value\)"),
        (
            of_library("polars.dataframe.frame", "DataFrame"),
            r"polars\.dataframe\.frame\.DataFrame",
            r"frame\.to_dicts\(\)",
        ),
        (iter_of_nothing(), "generator", "make a list of it"),
        (collections.UserList(), r"collections\.UserList", r"list\(value\)"),
        (ValueError("x"), "ValueError", r"str\(exception\)"),
        (len, "builtin_function_or_method", "Code does not travel"),
        (Point, "type", "Code does not travel"),
        (pathlib.Path("a"), "Path", r"str\(path\)"),
        (threading.Lock(), "lock", "plain data"),
        (1j, "complex", "plain data"),
        (object(), "object", "plain data"),
        (Run.__new__(Run), r"egregore_dist\.client\.run\.Run", r"run\.id"),
        ("\ud800", "str", "surrogates"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda value: value, ""),
        (lambda value: {"rows": [0, 1, 2, value]}, r" at \['rows'\]\[3\]"),
        (lambda value: [Holder({7: (value,)})], r" at \[0\]\.inside\[7\]\[0\]"),
        (lambda value: Model(name="a", extra=[value]), r" at \.extra\[0\]"),
        (lambda value: Order(1, {"k": value}), r" at \.lines\['k'\]"),
    ],
    ids=["bare", "dict", "dataclass", "model", "struct"],
)
def test_what_cannot_travel_is_named(value: Any, named: str, cure: str, wrap: Any, path: str) -> None:
    """The error says where the value came from, the type inside, its path and the cure."""
    with pytest.raises(errors.EncodingError, match=rf"^{WHERE} cannot be encoded: .*{named}{path}\. .*{cure}"):
        codec.encode(wrap(value), where=WHERE)


def test_a_coroutine_is_named() -> None:
    """A coroutine that was not awaited says so."""

    async def forgotten() -> None: ...

    coroutine = forgotten()
    try:
        with pytest.raises(errors.EncodingError, match=r"coroutine.*Await it"):
            codec.encode(coroutine, where=WHERE)
    finally:
        coroutine.close()


def test_a_value_inside_itself_is_refused() -> None:
    """A cycle ends in an error, not in a crash."""
    cycle: list[Any] = []
    cycle.append(cycle)

    with pytest.raises(errors.EncodingError, match=r"load' is nested too deeply, or contains itself"):
        codec.encode(cycle, where=WHERE)


def nested(levels: int, wrap: Callable[[Any], Any], inner: Any = 1) -> Any:
    """``inner`` inside so many containers."""
    for _ in range(levels):
        inner = wrap(inner)
    return inner


@pytest.mark.parametrize(
    "wrap",
    [lambda it: [it], lambda it: {"k": it}, lambda it: (it,), lambda it: {"k": 1, "l": [it, "x" * 200]}],
    ids=["list", "dict", "tuple", "mixed"],
)
@pytest.mark.parametrize("size", [0, codec.READ_BACK + 1], ids=["small", "large"])
def test_s6_the_depth_of_a_value(wrap: Callable[[Any], Any], size: int) -> None:
    """A value of as many levels as are allowed travels, one of one level more is refused at its source."""
    levels = codec.DEPTH // 2 if "l" in wrap(1) else codec.DEPTH
    inner: Any = "x" * size
    deepest = nested(levels, wrap, inner)

    assert codec.encode(deepest, where=WHERE)
    with pytest.raises(errors.EncodingError, match=r"load' is nested too deeply.*64"):
        codec.encode(nested(1, lambda it: [it], deepest), where=WHERE)


@pytest.mark.parametrize("size", [0, codec.READ_BACK + 1], ids=["small", "large"])
def test_records_count_as_levels(size: int) -> None:
    """Records inside each other are mappings inside each other."""
    with pytest.raises(errors.EncodingError, match="nested too deeply"):
        codec.encode(nested(codec.DEPTH + 1, Holder, "x" * size), where=WHERE)


def test_many_containers_are_not_deep() -> None:
    """How many lists and mappings there are says nothing about their depth."""
    value = [{"id": number, "tags": [[], {}]} for number in range(1000)]

    assert journey(value) == value


@pytest.mark.parametrize("levels", [100, 1000, 10_000, 100_000, 1_000_000])
def test_deep_nesting_is_refused_on_both_ways(levels: int) -> None:
    """However deep a value or stored data is, it ends in an `EncodingError`, never in a crash."""
    deep = nested(levels, lambda it: [it])

    with pytest.raises(errors.EncodingError, match="nested too deeply"):
        codec.encode(deep, where=WHERE)
    with pytest.raises(errors.EncodingError, match="nested too deeply"):
        codec.decode(b"\x91" * levels + b"\x90")
    with pytest.raises(errors.EncodingError, match="nested too deeply"):
        codec.decode(b"\x81\x01" * levels + b"\x90")
    with contextlib.suppress(errors.EncodingError):
        codec.split(b"\x91" * levels + b"\x90")


def test_joined_values_may_be_deeper() -> None:
    """What branches returned at the deepest comes back inside the mappings of their blocks."""
    deepest = nested(codec.DEPTH, lambda it: [it])
    raw = codec.encode(deepest, where=WHERE)
    for _ in range(16):
        raw = codec.join_mapping([("branch", raw)])

    assert codec.decode(raw) == nested(16, lambda it: {"branch": it}, deepest)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        (collections.deque([1]), [1]),
        ({"inside": range(2)}, {"inside": [0, 1]}),
    ],
    ids=repr,
)
def test_ranges_and_views_travel_as_lists(value: Any, seen: Any) -> None:
    """A range, or a view of a dict, is a list at the other end."""
    assert journey(value) == seen


def test_an_endless_range_is_refused() -> None:
    """A range is not written out where it is larger than any list that could travel."""
    with pytest.raises(errors.EncodingError, match=r"load' cannot be encoded: a range of 1000000000 items"):
        codec.encode({"a": range(10**9)}, where=WHERE)


def test_a_generator_is_named_with_its_cure() -> None:
    """A generator has no length and can be read once: the message says to make a list of it."""
    with pytest.raises(errors.EncodingError, match=r"generator at \[0\].*make a list of it"):
        codec.encode([(n for n in ())], where=WHERE)


def test_large_values_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first value over 1 MB from one place is warned of, and small ones and repetitions are not."""
    where = f"the value returned by node {uuid.uuid4().hex!r}"
    codec.encode("x" * (codec.LARGE - 100), where=where, limit=10**7)
    assert caplog.text == ""
    for _ in range(3):
        codec.encode("x" * codec.LARGE, where=where, limit=10**7)

    assert [record.getMessage() for record in caplog.records] == [
        f"{where} takes 1.0 MB encoded: a reference (a path, a key, a URL) to something so large is faster"
    ]


def test_what_no_server_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of branches that together exceed what a server stores as one are refused with the cure."""
    monkeypatch.setattr(codec, "LARGEST", 100)
    raws = [codec.encode("x" * 60, where=WHERE)] * 2
    with pytest.raises(errors.PayloadTooLarge, match=r"branches take 12\d bytes together.*references"):
        codec.join_list(raws)
    with pytest.raises(errors.PayloadTooLarge, match=r"branches take 12\d bytes together.*references"):
        codec.join_mapping(list(enumerate(raws)))


@pytest.mark.parametrize("key", [Point(1), (1, Point(1))])
def test_a_key_that_no_reader_can_hash_is_refused_at_its_source(key: Any) -> None:
    """A record as a key would come back as a mapping, which cannot be a key."""
    for size in (0, codec.READ_BACK + 1):
        with pytest.raises(errors.EncodingError, match=r"load' could not be read back.*keys"):
            codec.encode({key: "x" * size}, where=WHERE)


def test_s6_a_payload_at_its_limit_travels() -> None:
    """The limit is inclusive."""
    raw = codec.encode("x" * 100, where=WHERE)

    assert codec.encode("x" * 100, where=WHERE, limit=len(raw)) == raw


def test_s6_a_payload_over_its_limit_is_refused() -> None:
    """One byte more is refused, naming size, limit and setting."""
    size = len(codec.encode("x" * 100, where=WHERE))

    with pytest.raises(errors.PayloadTooLarge, match=rf"load' takes {size} bytes.*{size - 1}.*EGREGORE_PAYLOAD_LIMIT"):
        codec.encode("x" * 100, where=WHERE, limit=size - 1)


def failed(branch: Any = "b") -> errors.BranchError:
    return errors.BranchError(
        branch, kind="timeout", type="ValueError", message="no", node="n", traceback="Traceback", attempt=3
    )


@pytest.mark.parametrize("branch", ["b", 3, None, (1, "a")])
def test_a_failed_branch_travels_as_itself(branch: Any) -> None:
    """A BranchError comes back as one, anywhere inside a value, with all its attributes."""
    back = journey({"good": 1, "bad": [failed(branch)]})["bad"][0]

    assert type(back) is errors.BranchError
    assert vars(back) == vars(failed(branch))
    assert str(back) == str(failed(branch))


def test_foreign_extensions_come_back_as_they_went() -> None:
    """A MessagePack extension of somebody else is neither read nor lost."""
    back = journey(msgspec.msgpack.Ext(5, b"theirs"))

    assert (back.code, bytes(back.data)) == (5, b"theirs")


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", b"\xc4\x05a", b"\x01\x01", b"\xd4\x01\x90", b"\x81\x80\x01", b"\xa1\xff"]
)
def test_malformed_data_is_refused(raw: bytes) -> None:
    """Damaged data is one error of this package, whatever is wrong with it."""
    with pytest.raises(errors.EncodingError, match="not well-formed"):
        codec.decode(raw)


@given(st.lists(plain, max_size=5))
def test_a_joined_list_is_the_list(values: list[Any]) -> None:
    """Joining encoded items gives the encoded list, and splitting gives the items back."""
    raws = [codec.encode(value, where=WHERE) for value in values]
    joined = codec.join_list(raws)

    assert joined == codec.encode(values, where=WHERE)
    assert taken_apart(joined) == list(enumerate(raws))


@given(st.dictionaries(keys, plain, max_size=5))
def test_a_joined_mapping_is_the_mapping(values: dict[Any, Any]) -> None:
    """Joining encoded entries gives the encoded mapping, in order, and splitting gives the entries back."""
    pairs = [(key, codec.encode(value, where=WHERE)) for key, value in values.items()]
    joined = codec.join_mapping(pairs)

    assert joined == codec.encode(values, where=WHERE)
    assert taken_apart(joined) == pairs


def test_two_entries_of_one_key_are_refused() -> None:
    """A joined mapping never drops an entry in silence."""
    with pytest.raises(errors.EncodingError, match="one key"):
        codec.join_mapping([("a", b"\x01"), ("a", b"\x02")])


def test_a_key_that_cannot_travel_is_named() -> None:
    """A joined mapping says which key it cannot encode."""
    with pytest.raises(errors.EncodingError, match="keys of a mapping cannot be encoded: object"):
        codec.join_mapping([("a", b"\x01"), (object(), b"\x02")])


@pytest.mark.parametrize("size", [0, 1, 15, 16, 70000])
def test_long_blocks_split(size: int) -> None:
    """Every size of list and mapping header splits."""
    raws = [b"\x01"] * size

    assert len(codec.split(codec.join_list(raws))) == size
    assert len(codec.split(codec.join_mapping(list(enumerate(raws))))) == size


@pytest.mark.parametrize(
    ("value", "came"), [(7, "int"), ("text", "str"), (None, "NoneType"), (failed(), "BranchError")]
)
def test_only_lists_and_mappings_split(value: Any, came: str) -> None:
    """Anything else says what came instead."""
    with pytest.raises(errors.EncodingError, match=rf"a list or a mapping is needed here.*but {came} came"):
        codec.split(codec.encode(value, where=WHERE))


def test_a_failed_branch_survives_a_join() -> None:
    """An entry that failed stays a BranchError in the joined mapping."""
    joined = codec.join_mapping([("a", codec.encode(1, where=WHERE)), ("b", codec.encode(failed(), where=WHERE))])

    back = codec.decode(joined)

    assert back["a"] == 1
    assert vars(back["b"]) == vars(failed())


class _Letter(enum.Enum):
    A = "a"


@pytest.mark.parametrize(
    "value",
    [
        {_Letter.A: 1, "a": 2},
        {dt.date(2020, 1, 1): 1, "2020-01-01": 2},
        {uuid.UUID(int=5): 1, str(uuid.UUID(int=5)): 2},
        [{"inside": ({_Letter.A: 1, "a": 2},)}],
    ],
)
@pytest.mark.parametrize("size", [0, codec.READ_BACK + 1], ids=["small", "large"])
def test_keys_that_become_equal_are_refused(value: Any, size: int) -> None:
    """A mapping whose keys are equal where they are read is refused at its source: an entry would be lost."""
    with pytest.raises(errors.EncodingError, match=r"^the value of 'x' has a mapping with two keys that are equal"):
        codec.encode(["x" * size, value], where="the value of 'x'")


def test_keys_that_stay_different_are_taken() -> None:
    """Keys of several types that are read as different ones all arrive."""
    value = {1: "a", "1": "b", None: "c", 2.5: "d", b"x": "e", (1, 2): "f", dt.date(2020, 1, 1): "g"}

    assert len(codec.decode(codec.encode(value, where="a test"))) == len(value)
