"""The demo's workflow: how large and how complex are the packages of Python's standard library?

The functions are pure: what they read is the source of the Python that runs them.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import time
import warnings
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from egregore_dist import Sequence, decision, node

#: A package with more source than this is split, and its files are measured in parallel. Bytes.
LARGE = 200_000


@dataclass(frozen=True, slots=True)
class Package:
    """A top-level package or module: its files, relative to the standard library, and their bytes in all."""

    name: str
    files: list[str]
    bytes: int


@dataclass(frozen=True, slots=True)
class File:
    """One source file of a package, relative to the standard library."""

    package: str
    path: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function by its module and qualified name, and its cyclomatic complexity."""

    name: str
    complexity: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a package, or of one of its files.

    Attributes:
        package: the top-level name.
        files: how many source files.
        bytes: their size.
        lines: their lines.
        functions: functions and methods, nested ones too.
        complexity: the sum of their cyclomatic complexities.
        worst: the most complex one, or None where there is none.
        seconds: of processor time that it took.
    """

    package: str
    files: int
    bytes: int
    lines: int
    functions: int
    complexity: int
    worst: Function | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole library in one, and its packages, the most complex first."""

    total: Figures
    packages: list[Figures]


@node
def find_packages() -> list[Package]:
    """The packages and modules of the standard library that come as source."""
    library = _library()
    packages = []
    for name in sorted(sys.stdlib_module_names):
        single = library / f"{name}.py"
        files = [single] if single.is_file() else sorted((library / name).rglob("*.py"))
        if files:
            size = sum(file.stat().st_size for file in files)
            packages.append(Package(name, [file.relative_to(library).as_posix() for file in files], size))
    # The largest first: then the last to end are short, and no worker is left alone with a long one.
    return sorted(packages, key=lambda package: -package.bytes)


@decision
def by_size(package: Package) -> Literal["at_once", "by_file"]:
    """Whether a package is worth splitting."""
    return "by_file" if package.bytes > LARGE and len(package.files) > 1 else "at_once"


@node
def at_once(package: Package) -> Figures:
    """Measure all files of a small package."""
    return add_up(package.name, [measure(File(package.name, path)) for path in package.files])


@node
def split(package: Package) -> list[File]:
    """The files of a large package."""
    return [File(package.name, path) for path in package.files]


@node
def measure_file(file: File) -> Figures:
    """Measure one file of a large package."""
    return measure(file)


@node
def join(files: list[Figures]) -> Figures:
    """The figures of a large package, from those of its files."""
    return add_up(files[0].package, files)


@node
def rank(packages: list[Figures]) -> Survey:
    """Order the packages, and add them up."""
    ranked = sorted(packages, key=lambda figures: (-figures.complexity, figures.package))
    return Survey(add_up("", packages), ranked)


by_file = Sequence(split, measure_file.map(), join, name="by_file")
survey = by_size.to(at_once, by_file)
workflow = Sequence(find_packages, survey.map(name="packages"), rank, name="survey")


def measure(file: File) -> Figures:
    """Measure one source file. One that this Python cannot parse counts with its size alone."""
    started = time.thread_time()
    source = (_library() / file.path).read_bytes()
    functions: list[Function] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in other people's source
            tree = ast.parse(source)
        functions = complexities(tree, file.path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    except (SyntaxError, ValueError):
        pass
    return Figures(
        package=file.package,
        files=1,
        bytes=len(source),
        lines=source.count(b"\n") + (not source.endswith(b"\n") and source != b""),
        functions=len(functions),
        complexity=sum(function.complexity for function in functions),
        worst=max(functions, key=lambda function: function.complexity, default=None),
        seconds=time.thread_time() - started,
    )


def add_up(package: str, parts: AbstractSequence[Figures]) -> Figures:
    """Figures of several files or packages as one."""
    worst = [part.worst for part in parts if part.worst is not None]
    return Figures(
        package=package,
        files=sum(part.files for part in parts),
        bytes=sum(part.bytes for part in parts),
        lines=sum(part.lines for part in parts),
        functions=sum(part.functions for part in parts),
        complexity=sum(part.complexity for part in parts),
        worst=max(worst, key=lambda function: function.complexity, default=None),
        seconds=sum(part.seconds for part in parts),
    )


def complexities(tree: ast.Module, module: str = "") -> list[Function]:
    """The cyclomatic complexity of each function in a module: 1, and 1 for each place where its way parts.

    Those are ``if`` (``elif`` and the conditional expression too), ``for``, ``while``, ``except``, each ``for`` and
    ``if`` of a comprehension, each ``and`` or ``or``, and each ``case`` that does not match everything. A function
    inside another counts by itself; a lambda belongs to the function around it; code outside of functions is left out.
    """
    names: list[str] = []
    counts: list[int] = []
    # A node, the function it belongs to (-1: none), and the name that definitions in it start with.
    stack: list[tuple[ast.AST, int, str]] = [(tree, -1, f"{module}." if module else "")]
    while stack:
        at, owner, prefix = stack.pop()
        kind = type(at)
        if kind in _DEFINITIONS:
            name = f"{prefix}{at.name}"  # type: ignore[attr-defined]
            prefix = f"{name}."
            if kind is not ast.ClassDef:
                owner = len(names)
                names.append(name)
                counts.append(1)
        elif owner >= 0 and kind in _BRANCHING:
            counts[owner] += _branches(at)
        for field in kind._fields:
            value = getattr(at, field, None)
            if type(value) is list:
                stack += [(part, owner, prefix) for part in value if type(part) not in _LEAVES]
            elif type(value) not in _LEAVES:
                assert isinstance(value, ast.AST)
                stack.append((value, owner, prefix))
    return [Function(name, count) for name, count in zip(names, counts, strict=True)]


_DEFINITIONS = frozenset({ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef})
_BRANCHING = frozenset(
    {
        ast.If,
        ast.IfExp,
        ast.For,
        ast.AsyncFor,
        ast.While,
        ast.ExceptHandler,
        ast.comprehension,
        ast.BoolOp,
        ast.match_case,
    }
)
# What can hold no branch, so that it need not be looked into: most of a tree.
_OPERATORS = (*ast.expr_context.__subclasses__(), *ast.boolop.__subclasses__(), *ast.operator.__subclasses__())
_LEAVES = frozenset(
    {
        *_OPERATORS,
        *ast.unaryop.__subclasses__(),
        *ast.cmpop.__subclasses__(),
        *(ast.Name, ast.Constant, ast.Pass, ast.Break, ast.Continue),
        *(ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal),
        *(type(None), bool, int, str),
    }
)


def _branches(at: ast.AST) -> int:
    match at:
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.comprehension(ifs=ifs):
            return 1 + len(ifs)
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None):
            return 0
        case _:
            return 1


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
