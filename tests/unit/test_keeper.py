"""The keeper's independence."""

from __future__ import annotations

import ast
import sys

from egregore_dist.client import processes


def test_the_keeper_needs_the_standard_library_only() -> None:
    """keeper.py runs by path without this package: it imports nothing but the standard library."""
    tree = ast.parse(processes.KEEPER.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
