"""``docs/security.md`` has every requirement; those that are met have tests and mutants that bear their names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.mutants.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/security.md").read_text("utf-8")
ROWS = re.findall(r"^\| (S\d+) \|(.*)\|$", TEXT, flags=re.MULTILINE)
NOT_YET = {"S2", "S3", "S16"}
MET = [(id, row) for id, row in ROWS if id not in NOT_YET]


def named_in(row: str) -> list[tuple[str, str]]:
    """The tests that a row names: file and function. ``::name`` is in the file of the one before."""
    named: list[tuple[str, str]] = []
    for file, name in re.findall(r"`([^`\s]*)::(\w+)`", row):
        named.append((file or named[-1][0], name))
    return named


def functions(file: Path) -> set[str]:
    """The names of a file's functions."""
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.fixture(scope="module")
def tests() -> dict[str, set[str]]:
    """The functions that bear the name of a requirement, by file."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if re.search(r"test_s\d+_", path.read_text("utf-8"))]
    return {
        str(path.relative_to(ROOT)): {name for name in functions(path) if re.match(r"test_s\d+_", name)}
        for path in files
    }


def test_s22_every_requirement_is_in_the_table() -> None:
    """S1 to S22 have one row each, in order; what is not met yet says so, and the text says what that means."""
    assert [id for id, _ in ROWS] == [f"S{number}" for number in range(1, 23)]
    assert {id for id, row in ROWS if row.rstrip().endswith("| not yet")} == NOT_YET
    explained = TEXT.partition("## Not yet defended")[2].partition("## Requirements")[0]
    assert {*re.findall(r"\bS\d+\b", explained)} >= NOT_YET
    assert "docs/security.md" in (ROOT / "README.md").read_text("utf-8")
    assert "docs/security.md" in (ROOT / "SECURITY.md").read_text("utf-8")


@pytest.mark.parametrize(("id", "row"), MET, ids=[id for id, _ in MET])
def test_s22_what_is_met_has_tests_and_a_mutant(id: str, row: str, tests: dict[str, set[str]]) -> None:
    """The tests of a row exist and bear its name; mutants do too, and run tests that bear it."""
    named, prefix = named_in(row), f"test_{id.lower()}_"
    mutants = [mutation for mutation in MUTATIONS if mutation.name.startswith(f"{id}:")]

    assert named
    assert [(file, name) for file, name in named if name not in tests.get(file, ())] == []
    assert [name for _, name in named if not name.startswith(prefix)] == []
    files = [argument.partition("::")[0] for mutation in mutants for argument in mutation.tests]
    assert any(name.startswith(prefix) for file in files for name in tests.get(file, ()))


def test_every_test_that_bears_a_name_is_of_a_requirement(tests: dict[str, set[str]]) -> None:
    """No test bears the name of a requirement that there is not."""
    ids = {id.lower() for id, _ in ROWS}

    assert {name for names in tests.values() for name in names if name.split("_")[1] not in ids} == set()
