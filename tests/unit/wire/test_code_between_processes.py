"""Functions of real scripts and notebooks, shipped by one process and run by another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.secret import secret_of

ROOT = Path(__file__).parents[3]
SECRET = secret_of("both")

SHIP = """
import sys
from egregore_dist.wire import code, signing
def send(**functions):
    import msgspec
    signer = signing.Signer.from_text(SECRET)
    shipped = {name: (s.ref, s.blob) for name, fn in functions.items() for s in [code.ship(fn, signer)]}
    open(sys.argv[1], "wb").write(msgspec.msgpack.encode(shipped))
"""

WORKER = """
import sys, msgspec
from egregore_dist.wire import code, codec, signing
from egregore_dist.workflow import hints
loader = code.Loader(signing.Signer.from_text(SECRET), {})
shipped = msgspec.msgpack.decode(open(sys.argv[1], "rb").read())
def call(name, value):
    ref, blob = shipped[name]
    loaded = loader.load(ref, blob, refusal=None)
    resolved = hints.hints_of(loaded.fn) if loaded.hints is None else loaded.hints
    (annotation, *_) = [hint for key, hint in resolved.items() if key != "return"]
    return loaded.fn(codec.convert(codec.decode(codec.encode(value, where="a test")), annotation, "a test"))
"""

SCRIPT = """
from __future__ import annotations
import dataclasses, datetime as dt, enum, typing, uuid
import msgspec, pydantic
from egregore_dist.workflow.nodes import node

class Colour(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Line:
    made: dt.date
    colour: Colour

class Key(msgspec.Struct):
    id: uuid.UUID

@dataclasses.dataclass
class Order:
    lines: list[Line]
    key: Key | None = None
    unknown: NotThere | None = None

class Pair(typing.NamedTuple):
    left: Line
    right: int

class Entry(typing.TypedDict):
    line: Line

class Model(pydantic.BaseModel):
    made: dt.date

RATE = 2

def helper(n):
    return n * RATE

@node
def count(orders: list[Order]) -> int:
    assert all(type(line.made) is dt.date and line.colour is Colour.RED for o in orders for line in o.lines)
    assert type(orders[0].key) is Key and type(orders[0].key.id) is uuid.UUID
    return helper(len(orders[0].lines))

@node
def pair(value: Pair) -> int:
    assert value.left.made.year == 2026
    return value.right

@node
def entry(value: Entry) -> int:
    return value["line"].made.day

@node
def model(value: Model) -> int:
    return value.made.month

@node
def later(value: dt.date) -> int:
    return count.fn([]) if value.year < 0 else value.year

def maker(n):
    def inner(value: dt.date):
        return value.year + n
    return inner

send(count=count.fn, pair=pair.fn, entry=entry.fn, model=model.fn, later=later.fn, inner=maker(1),
     anonymous=lambda value: value + RATE)
"""

CALLS = """
line = {"made": "2026-03-02", "colour": "red"}
key = {"id": "00000000-0000-0000-0000-000000000001"}
print(call("count", [{"lines": [line], "key": key}]), call("pair", [line, 7]), call("entry", {"line": line}),
      call("model", {"made": "2026-03-02"}), call("later", "2026-03-02"), call("inner", "2026-03-02"))
(ref, blob) = shipped["anonymous"]
print(loader.load(ref, blob).fn(5))
"""

RESULTS = ["2", "7", "2", "3", "2026", "2027", "7"]


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(path: Path, *parts: str) -> str:
    path.write_text("\n".join(part.replace("SECRET)", f"{SECRET!r})") for part in parts))
    return path.name


def test_a_script_ships_what_another_process_runs(tmp_path: Path) -> None:
    """Functions and classes of a script, its string annotations included, work in a process that has no such script."""
    script = SCRIPT.replace("from egregore_dist.workflow.nodes", SHIP + "\nfrom egregore_dist.workflow.nodes", 1)
    run(tmp_path, write(tmp_path / "script.py", script), "shipped")

    assert run(tmp_path, write(tmp_path / "worker.py", WORKER, CALLS), "shipped").split() == RESULTS


def test_a_notebook_ships_what_another_process_runs(tmp_path: Path) -> None:
    """Cells executed one by one in __main__ work like a script, though there is no file of their source."""
    cells = SCRIPT.replace("from __future__ import annotations\n", "").strip().split("\n\n")
    kernel = f"""
import __future__
{SHIP}
for cell in {cells!r}:
    exec(compile(cell, "<cell>", "exec", __future__.annotations.compiler_flag), globals())
"""
    run(tmp_path, write(tmp_path / "kernel.py", kernel), "shipped")

    assert run(tmp_path, write(tmp_path / "worker.py", WORKER, CALLS), "shipped").split() == RESULTS


def test_a_redefined_cell_ships_what_it_is_now(tmp_path: Path) -> None:
    """A notebook that redefines a helper ships the new one, under another reference."""
    kernel = f"""
{SHIP}
exec("def helper(): return 1", globals())
exec("def f(value: int): return helper() + value", globals())
before = code.ship(f, signing.Signer.from_text(SECRET))
exec("def helper(): return 10", globals())
assert code.ship(f, signing.Signer.from_text(SECRET)).ref != before.ref
send(f=f)
"""
    run(tmp_path, write(tmp_path / "kernel.py", kernel), "shipped")

    assert run(tmp_path, write(tmp_path / "worker.py", WORKER, "print(call('f', 5))"), "shipped").split() == ["15"]


def test_one_class_is_one_class_in_the_worker(tmp_path: Path) -> None:
    """A value that one function of a script made is an instance for the next one, though both came by value."""
    script = f"""
{SHIP}
import dataclasses
@dataclasses.dataclass
class Point:
    x: int
def make(value: int): return Point(value)
def check(value: Point): return isinstance(value, Point)
send(make=make, check=check)
"""
    run(tmp_path, write(tmp_path / "script.py", script), "shipped")
    calls = "made = call('make', 3)\nprint(loader.load(*shipped['check']).fn(made), call('check', made))"

    assert run(tmp_path, write(tmp_path / "worker.py", WORKER, calls), "shipped").split() == ["True", "True"]


def test_classes_keep_their_names(tmp_path: Path) -> None:
    """A class inside of a function, or of a class, is called the same in the worker: exceptions go by that name."""
    script = f"""
{SHIP}
import msgspec
def outer():
    class Odd(Exception):
        class Inner(Exception): pass
    class Point(msgspec.Struct):
        x: int
    def names(value: int): return [kind.__module__ + "." + kind.__qualname__ for kind in (Odd, Odd.Inner, Point)]
    return names
send(names=outer())
"""
    run(tmp_path, write(tmp_path / "script.py", script), "shipped")
    found = run(tmp_path, write(tmp_path / "worker.py", WORKER, "print(*call('names', 1))"), "shipped").split()

    home = "__main__.outer.<locals>"
    assert found == [f"{home}.Odd", f"{home}.Odd.Inner", f"{home}.Point"]


STRUCTS = """
from __future__ import annotations
import datetime as dt
from typing import Annotated
import msgspec

class Base(msgspec.Struct, frozen=True, rename="camel", tag="base", forbid_unknown_fields=True, weakref=True):
    made_on: dt.date
    more_tags: list[str] = []
    size: int = 3
    def total(self): return self.size + len(self.more_tags)

class Child(Base, kw_only=True, array_like=False, tag="child", dict=True):
    day: dt.date
    parent: Child | None = None
    note: str = msgspec.field(default="n", name="remark")
    extra: dict = msgspec.field(default_factory=lambda: {"k": 1})
    def total(self): return super().total() + 100

def use(value: Child):
    assert type(value) is Child and type(value.parent) is Child and value.parent.parent is None
    assert type(value.made_on) is dt.date and type(value.parent.day) is dt.date
    assert value.extra == {"k": 1} and value.extra is not value.parent.extra
    assert (value.note, value.parent.note, value.size) == ("x", "n", 3)
    assert value == Child(value.made_on, day=value.day, parent=value.parent, note="x") and isinstance(value, Base)
    return value.total()

def refuse(value: Child):
    try:
        value.size = 4
    except AttributeError:
        return msgspec.json.encode(value).decode().replace(" ", "")
send(use=use, refuse=refuse)
"""


def test_struct_classes_of_a_script_travel_whole(tmp_path: Path) -> None:
    """Fields, defaults, options, names, tags, bases and methods of a struct class come along."""
    parent = {"type": "child", "madeOn": "2026-01-01", "day": "2026-01-01"}
    value = {**parent, "parent": parent, "remark": "x"}
    header, body = STRUCTS.split("from __future__ import annotations", 1)
    script = write(tmp_path / "script.py", "from __future__ import annotations", header, SHIP, body)
    run(tmp_path, script, "shipped")
    calls = f"print(call('use', {value}), call('refuse', {parent}))"

    total, encoded = run(tmp_path, write(tmp_path / "worker.py", WORKER, calls), "shipped").split()
    assert total == "103"
    assert json.loads(encoded) == {
        **parent,
        "moreTags": [],
        "size": 3,
        "parent": None,
        "remark": "n",
        "extra": {"k": 1},
    }


@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["script", "module"])
def test_a_module_beside_a_script_goes_by_reference(tmp_path: Path, flags: list[str]) -> None:
    """A script that imports its steps ships names; the script's own function goes by value and reaches them."""
    write(tmp_path / "steps.py", "def double(value: int): return value * 2")
    body = "from steps import double\ndef mine(value: int): return double(value) + 1\nsend(double=double, mine=mine)"
    name = write(tmp_path / "script.py", SHIP, body)
    run(tmp_path, *([*flags, "script"] if flags else [name]), "shipped")
    calls = "print(call('double', 4), call('mine', 4), shipped['double'][0], shipped['mine'][0][:2])"

    assert run(tmp_path, write(tmp_path / "worker.py", WORKER, calls), "shipped").split() == [
        "8",
        "9",
        "m:steps:double",
        "v:",
    ]


DATACLASSES = """
from __future__ import annotations
import dataclasses, datetime as dt, typing
from dataclasses import KW_ONLY, MISSING, field

@dataclasses.dataclass
class Tagged:
    id: int
    tags: list[str] = field(default_factory=list)
    made: dt.date = dt.date(2020, 1, 1)
    kind: typing.ClassVar[int] = 3

@dataclasses.dataclass
class Holder:
    first: Tagged
    rest: list[Tagged] = field(default_factory=list)

@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strict:
    a: int
    b: dt.date = dt.date(2020, 1, 1)
    c: dict = field(default_factory=dict)

@dataclasses.dataclass
class Mixed:
    a: int
    _: KW_ONLY
    b: list = field(default_factory=list)

@dataclasses.dataclass
class Computed:
    a: int
    more: dataclasses.InitVar[int] = 1
    c: int = field(init=False)
    def __post_init__(self, more): self.c = self.a + more

T = typing.TypeVar("T")

@dataclasses.dataclass
class Box(typing.Generic[T]):
    x: T
    tags: list[str] = field(default_factory=list)

def tagged(value: Tagged): return value
def many(value: list[Tagged]): return value
def holder(value: Holder): return value
def strict(value: Strict): return value
def mixed(value: Mixed): return value
def computed(value: Computed): return value
def box(value: Box[dt.date]): return value

def inherited(value: int):
    @dataclasses.dataclass
    class Child(Tagged):
        owner: str = "nobody"
        notes: list = dataclasses.field(default_factory=list)
    return Child(value), [each.name for each in dataclasses.fields(Child)], Child.kind

def markers(value: int, given=MISSING, only=KW_ONLY):
    found = {each.name: each for each in dataclasses.fields(Tagged)}
    return given is MISSING, only is KW_ONLY, found["tags"].default is MISSING, found["id"].default_factory is MISSING

send(**{fn.__name__: fn for fn in (tagged, many, holder, strict, mixed, computed, box, inherited, markers)})
"""


@pytest.fixture(scope="module")
def dataclasses_of_a_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a script full of dataclasses has shipped."""
    folder = tmp_path_factory.mktemp("dataclasses")
    header, body = DATACLASSES.split("from __future__ import annotations", 1)
    run(folder, write(folder / "script.py", "from __future__ import annotations", header, SHIP, body), "shipped")
    return folder


def called(folder: Path, *calls: str) -> list[str]:
    """What the calls give in a worker, a line each."""
    return run(
        folder, write(folder / "worker.py", WORKER, *(f"print({call})" for call in calls)), "shipped"
    ).splitlines()


def test_dataclasses_of_a_script_keep_their_defaults(dataclasses_of_a_script: Path) -> None:
    """Defaults and default factories of a script's dataclasses work in the worker, whatever kind of dataclass it is."""
    found = called(
        dataclasses_of_a_script,
        "call('tagged', {'id': 1})",
        "call('many', [{'id': i} for i in range(20)])[19]",
        "call('holder', {'first': {'id': 1}, 'rest': [{'id': 2, 'tags': ['t']}]})",
        "call('strict', {'a': 1})",
        "call('mixed', {'a': 1})",
        "call('computed', {'a': 1})",
        "call('box', {'x': '2026-03-02'})",
        "call('tagged', {'id': 1}).tags is call('tagged', {'id': 1}).tags",
    )

    day = "made=datetime.date(2020, 1, 1)"
    assert found == [
        f"Tagged(id=1, tags=[], {day})",
        f"Tagged(id=19, tags=[], {day})",
        f"Holder(first=Tagged(id=1, tags=[], {day}), rest=[Tagged(id=2, tags=['t'], {day})])",
        "Strict(a=1, b=datetime.date(2020, 1, 1), c={})",
        "Mixed(a=1, b=[])",
        "Computed(a=1, c=2)",
        "Box(x=datetime.date(2026, 3, 2), tags=[])",
        "False",
    ]


@pytest.mark.parametrize(
    ("call", "place"),
    [
        ("call('tagged', {'tags': []})", "a test"),
        ("call('many', [{'id': 1}, {}])", "a test at [1]"),
        ("call('holder', {'first': {}})", "a test"),
        ("call('strict', {})", "a test"),
        ("call('mixed', {'b': []})", "a test"),
        ("call('box', {})", "a test"),
    ],
)
def test_a_field_that_is_missing_is_refused(dataclasses_of_a_script: Path, call: str, place: str) -> None:
    """A required field of a script's dataclass is required in the worker too, and the error says where."""
    refused = f"try: {call}\nexcept Exception as error: print(type(error).__name__, error)"
    worker = write(dataclasses_of_a_script / "worker.py", WORKER, refused)
    said = run(dataclasses_of_a_script, worker, "shipped")

    assert said.startswith(f"BindingError {place}: expected")
    assert "missing required field" in said


def test_markers_are_themselves_in_the_worker(dataclasses_of_a_script: Path) -> None:
    """What is compared by identity, such as ``dataclasses.MISSING``, is the worker's own."""
    found = called(
        dataclasses_of_a_script, "*call('markers', 1)", "call('inherited', 5)[0]", "call('inherited', 5)[1:]"
    )

    assert found == [
        "True True True True",
        "inherited.<locals>.Child(id=5, tags=[], made=datetime.date(2020, 1, 1), owner='nobody', notes=[])",
        "(['id', 'tags', 'made', 'owner', 'notes'], 3)",
    ]
