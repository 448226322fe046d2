"""README's Python, as a reader would try it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any, Literal

import pytest

import egregore_dist
from egregore_dist import LocalCluster, node
from egregore_dist.workflow import Node

README = (Path(__file__).parents[2] / "README.md").read_text()
SNIPPETS = re.findall(r"^## (.*?)$|^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def snippets() -> dict[str, str]:
    """The code by the heading that it stands under; what stands before the first one is the introduction."""
    found: dict[str, str] = {}
    heading = "Introduction"
    for title, code in SNIPPETS:
        heading = title or heading
        if code:
            assert heading not in found
            found[heading] = code
    return found


def passes(name: str) -> Node[..., Any]:
    @node(name)
    def passes(value: Any) -> Any:
        return value

    return passes


def known() -> dict[str, Any]:
    """What a reader of the later parts has: the package's names, and some nodes."""
    given = {name: getattr(egregore_dist, name) for name in egregore_dist.__all__}
    given |= {name: passes(name) for name in ("a", "b", "c", "load", "at_once", "split", "work", "join", "save")}
    flow = given["a"] >> given["b"]
    return {**given, "Page": dict, "Literal": Literal, "flow": flow, "data": {"n": 1}}


def execute(code: str, names: dict[str, Any]) -> None:
    """Execute code as a script, in which ``await`` may stand anywhere."""
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names["__name__"] = "__main__"
    awaited = eval(compiled, names)
    if inspect.iscoroutine(awaited):
        asyncio.run(awaited)


def test_every_snippet_is_tried() -> None:
    """Whatever Python README has is executed below."""
    assert list(snippets()) == ["Introduction", "The language", "Running"]


def test_the_first_script(local: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """It needs nothing beside itself, and prints both results."""
    execute(snippets()["Introduction"], {})

    assert capsys.readouterr().out == (
        "{'api': {'source': 'api', 'data': '/USERS'}, 'db': {'source': 'db', 'data': '1 tceles'}}\n"
    )


def test_the_language() -> None:
    """Every form of it can be built."""
    names = known()
    execute(snippets()["The language"], names)

    assert (names["fetch"].name, names["fetch"].options.queue, names["route"].name) == ("fetch", "gpu", "route")


def test_running(local: LocalCluster) -> None:
    """Every call of a run works, and the run has its value at the end."""
    names = known()
    execute(snippets()["Running"], names)

    assert names["run"].result(timeout=10) == {"n": 1}
