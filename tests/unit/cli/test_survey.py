"""The demo's nodes as plain functions."""

from __future__ import annotations

import ast
import sys
import sysconfig
from pathlib import Path

import pytest

from egregore_dist.cli import survey
from egregore_dist.cli.survey import File, Function, Package


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\n    else: pass", 2),
        ("if a: pass\n    elif b: pass\n    elif c: pass\n    else: pass", 4),
        ("return 1 if a else 2", 2),
        ("return a and b or c", 3),
        ("return a and b and c", 3),
        ("for x in y: pass", 2),
        ("while x: pass", 2),
        ("try: pass\n    except A: pass\n    except B: pass\n    finally: pass", 3),
        ("with a: pass", 1),
        ("return [x for x in y]", 2),
        ("return {x: z for x in y for z in x if a if b}", 5),
        ("return lambda: 1 if a else 2", 2),
        ("match a:\n        case 1: pass\n        case None: pass\n        case _: pass", 3),
        ("match a:\n        case _ if b: pass", 2),
        ("return -a + b[c] < d", 1),
        ("return f(*[1 if a else 2], k=b or c)", 3),
        ("assert a", 1),
    ],
)
def test_complexity(body: str, complexity: int) -> None:
    """A function's complexity is 1 and its branches."""
    found = survey.complexities(ast.parse(f"def f():\n    {body}\n"))

    assert found == [Function("f", complexity)]


def test_async_branches_count_too() -> None:
    """``async for`` counts like ``for``."""
    found = survey.complexities(ast.parse("async def f():\n    async for x in y: pass\n"))

    assert found == [Function("f", 2)]


def test_functions_inside_functions() -> None:
    """A function inside another counts by itself, under its qualified name."""
    source = (
        "class C:\n  def outer(self):\n    if a: pass\n    def inner():\n      while b: pass\n      while c: pass\n"
    )

    found = survey.complexities(ast.parse(source), "m")

    assert sorted((function.name, function.complexity) for function in found) == [
        ("m.C.outer", 2),
        ("m.C.outer.inner", 3),
    ]


def test_code_outside_of_functions_is_left_out() -> None:
    """Branches of a module or a class belong to no function."""
    assert survey.complexities(ast.parse("if a: pass\nclass C:\n  while b: pass\n")) == []


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset({"one", "pack", "absent"}))
    (tmp_path / "one.py").write_text("def f(a):\n    return a or 1")
    (tmp_path / "pack" / "sub").mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "sub" / "deep.py").write_text(
        "def g():\n    pass\n\ndef h(a):\n    if a: pass\n    if a: pass\n"
    )
    (tmp_path / "pack" / "broken.py").write_text("def (:\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    return tmp_path


def test_find_packages(library: Path) -> None:
    """Packages and modules of the library that are there as source are found, the largest first."""
    assert survey.find_packages() == [
        Package("pack", ["pack/__init__.py", "pack/broken.py", "pack/sub/deep.py"], 66),
        Package("one", ["one.py"], 27),
    ]


def test_measure(library: Path) -> None:
    """The figures of a file: its size, lines and functions, and the most complex one."""
    figures = survey.measure(File("pack", "pack/sub/deep.py"))

    assert (figures.package, figures.files, figures.bytes, figures.lines) == ("pack", 1, 59, 6)
    assert (figures.functions, figures.complexity) == (2, 4)
    assert figures.worst == Function("pack.sub.deep.h", 3)


def test_the_last_line_needs_no_end(library: Path) -> None:
    """A last line without a newline counts."""
    assert survey.measure(File("one", "one.py")).lines == 2


def test_what_cannot_be_parsed_counts_with_its_size(library: Path) -> None:
    """A file that is no Python of this version has a size and no functions."""
    figures = survey.measure(File("pack", "pack/broken.py"))

    assert (figures.bytes, figures.lines, figures.functions, figures.worst) == (7, 1, 0, None)


def test_split_and_join_are_as_at_once(library: Path) -> None:
    """A package that is split has the same figures as one that is measured at once."""
    package = survey.find_packages()[0]

    split = survey.join([survey.measure_file(file) for file in survey.split(package)])
    whole = survey.at_once(package)

    assert (split.files, split.bytes, split.lines, split.functions) == (3, 66, 7, 2)
    assert (split.package, split.complexity, split.worst) == (whole.package, whole.complexity, whole.worst)


@pytest.mark.parametrize(
    ("size", "files", "way"),
    [(survey.LARGE, 2, "at_once"), (survey.LARGE + 1, 2, "by_file"), (survey.LARGE + 1, 1, "at_once")],
)
def test_by_size(size: int, files: int, way: str) -> None:
    """Packages of more than one file are split where they are large."""
    assert survey.by_size(Package("p", ["f.py"] * files, size)) == way


def test_rank(library: Path) -> None:
    """Packages are ranked by complexity, and added up."""
    found = survey.rank([survey.at_once(package) for package in reversed(survey.find_packages())])

    assert [figures.package for figures in found.packages] == ["pack", "one"]
    assert (found.total.files, found.total.functions, found.total.complexity) == (4, 3, 6)


def test_this_library() -> None:
    """On the Python that runs this, packages are found, and some are large enough to be split."""
    packages = {package.name: package for package in survey.find_packages()}

    assert {"asyncio", "json", "ast", "os"} <= packages.keys()
    assert survey.by_size(packages["asyncio"]) == "by_file"
