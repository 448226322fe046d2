"""Functions of real scripts and notebooks, shipped by one process and run by another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECRET = "the secret of these tests"

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
loader = code.Loader(signing.Signer.from_text(SECRET), ("steps",))
shipped = msgspec.msgpack.decode(open(sys.argv[1], "rb").read())
def call(name, value):
    ref, blob = shipped[name]
    loaded = loader.load(ref, blob)
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
