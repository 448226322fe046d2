"""The page itself, ``docs/parallel-execution.md``: it is Python, its imports exist, and the tests run its code."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
HERE = Path(__file__).parent

BLOCKS = 23

# Decorators on top of each other without a function: a sketch of names.
SKETCH = 21

# The page leaves out what stands between the braces.
ELIDED = "parallel_fetch({...})"


def blocks() -> dict[int, str]:
    """The page's Python code blocks, by number from 1."""
    page = (DOCS / "parallel-execution.md").read_text(encoding="utf-8")
    found = re.findall(r"^ *```python\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)
    return {number: textwrap.dedent(code) for number, code in enumerate(found, start=1)}


def test_the_page_has_its_blocks() -> None:
    """The page has 23 code blocks."""
    assert len(blocks()) == BLOCKS


@pytest.mark.parametrize("number", range(1, BLOCKS + 1))
def test_a_block_is_python(number: int) -> None:
    """Each block compiles, but for the one that is a sketch."""
    if number == SKETCH:
        with pytest.raises(SyntaxError):
            compile(blocks()[number], f"block {number}", "exec")
    else:
        compile(blocks()[number], f"block {number}", "exec")


def test_every_imported_name_exists() -> None:
    """Whatever the page imports can be imported, and is of this package or of the standard library."""
    imported = [
        (statement.module, alias.name)
        for number, code in blocks().items()
        if number != SKETCH
        for statement in ast.walk(ast.parse(code))
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    ]

    assert {module for module, _ in imported} == {"egregore_dist"}
    package = importlib.import_module("egregore_dist")
    assert [name for _, name in imported if name not in package.__all__] == []


@pytest.mark.parametrize("number", sorted({*range(1, BLOCKS + 1)} - {SKETCH}))
def test_a_block_is_run_as_it_is_written(number: int) -> None:
    """Each statement of a block stands word for word in the tests of that block, imports and ellipses apart."""
    tested = _tested(number)
    missing = [
        ast.unparse(statement)
        for statement in ast.parse(blocks()[number]).body
        if not isinstance(statement, ast.Import | ast.ImportFrom)
        and ELIDED not in ast.unparse(statement)
        and ast.dump(statement.value if isinstance(statement, ast.Expr) else statement) not in tested
    ]

    assert missing == []


def test_the_table_names_a_test_for_each_block() -> None:
    """``docs/page.md`` has a row for each block, in order, and each test that it names exists."""
    table = (DOCS / "page.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*?\| `([\w.]+)::(\w+)` \|", table, re.MULTILINE)

    assert [int(number) for number, _, _ in rows] == list(range(1, BLOCKS + 1))
    for number, file, name in rows:
        assert name.startswith(f"test_block_{int(number):02}_")
        assert f"def {name}(" in (HERE / file).read_text(encoding="utf-8")


def _tested(number: int) -> set[str]:
    # Every node of the syntax trees of the files that test this block.
    found: set[str] = set()
    for file in HERE.glob("test_page_*.py"):
        text = file.read_text(encoding="utf-8")
        if f"def test_block_{number:02}_" in text:
            found |= {ast.dump(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt | ast.expr)}
    return found
