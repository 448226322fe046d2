"""Nothing but wire/code.py can turn data into code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import egregore_dist.wire

PACKAGE = Path(egregore_dist.wire.__file__).parents[1]
ALLOWED = PACKAGE / "wire" / "code.py"
MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle",
    "marshal", "shelve", "yaml", "ruamel", "code", "codeop",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__"}
FORMATS = {"pickle", "yaml", "application/x-python-serialize", "application/x-yaml"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What a source has that can run data: imports of unsafe formats, calls of eval and its kin, names of formats."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), level=0) if module.partition(".")[0] in MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                yield name
            case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if name in CALLS:
                yield name
            case ast.Constant(value=str(text)) if text in FORMATS:
                yield repr(text)


def test_s1_only_one_module_can_run_data() -> None:
    """No source of the package but wire/code.py pickles, evaluates, or names such a format."""
    found = {
        str(path.relative_to(PACKAGE)): list(unsafe(ast.parse(path.read_text())))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != ALLOWED
    }

    assert len(found) > 10
    assert {path: what for path, what in found.items() if what} == {}


def test_s1_the_one_module_has_one_door() -> None:
    """wire/code.py unpickles in one place: what was opened by the signer, just before."""
    tree = ast.parse(ALLOWED.read_text())
    loads = [
        (function.name, ast.unparse(call))
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("cloudpickle.load", "cloudpickle.pickle"))
    ]

    assert list(unsafe(tree)) == ["cloudpickle"]
    assert loads == [("_unpacked", "cloudpickle.loads(package.content)")]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import marshal as m",
        "from yaml import load",
        "def f():\n import shelve",
        "x = eval('1')",
        "exec(data)",
        "compile(a, b, c)",
        "__import__('os')",
        "builtins.exec(data)",
        "accept_content = ['json', 'pickle']",
    ],
)
def test_the_check_sees(source: str) -> None:
    """Each unsafe form is found."""
    assert list(unsafe(ast.parse(source)))


@pytest.mark.parametrize("source", ["from egregore_dist.wire import code", "re.compile('a')", "from . import code"])
def test_the_check_passes_what_is_safe(source: str) -> None:
    """Names that merely look alike are not found."""
    assert not list(unsafe(ast.parse(source)))
