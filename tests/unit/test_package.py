"""The package as its users get it: names, import, wheel, files."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

import egregore_dist

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "egregore_dist"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: The public surface that the documentation promises.
PUBLIC = {
    "BindingError",
    "BranchError",
    "BrokerFull",
    "BrokerUnavailable",
    "Context",
    "Limit",
    "LocalCluster",
    "ParallelExecutionError",
    "ParallelTimeoutError",
    "Run",
    "RunCancelled",
    "RunExists",
    "RunFailed",
    "RunLost",
    "RunNotFound",
    "Sequence",
    "connect",
    "decision",
    "node",
    "parallel",
}
HEAVY = ("billiard", "celery", "cloudpickle", "kombu", "psutil", "pydantic", "redis", "rich")


def run(code: str) -> str:
    """What a fresh interpreter prints for ``code``."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_all_is_the_documented_list() -> None:
    """``__all__`` holds exactly the names that the documentation promises, each once."""
    assert sorted(egregore_dist.__all__) == sorted(PUBLIC)


def test_public_names_are_all() -> None:
    """Every public name of the package is in ``__all__`` and can be had."""
    found = {
        name
        for name in dir(egregore_dist)
        if not name.startswith("_") and not isinstance(getattr(egregore_dist, name), types.ModuleType)
    }

    assert found - {"annotations", "TYPE_CHECKING", "Any"} == set(egregore_dist.__all__)


def test_star_import() -> None:
    """A star import brings exactly the public names."""
    code = "from egregore_dist import *; print(sorted(name for name in dir() if not name.startswith('__')))"

    assert ast.literal_eval(run(code)) == sorted(PUBLIC)


def test_import_loads_nothing_heavy() -> None:
    """Importing the package and building a workflow loads neither Celery, nor Redis, nor any other large library."""
    code = (
        "import sys; from egregore_dist import Sequence, decision, node, parallel; "
        "Sequence(parallel(node('a')(lambda x: x), node('b')(lambda x: x)), node('c')(lambda x: x)); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    assert ast.literal_eval(run(code)) == []


def test_import_starts_nothing() -> None:
    """Importing the package starts no thread and no process."""
    code = "import threading, egregore_dist; print(threading.active_count())"

    assert run(code).strip() == "1"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is(path: Path) -> None:
    """Every module has a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_wheel_holds_the_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's only top-level name is the package, with its Lua files and its type marker."""
    from hatchling import build

    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
    files = [path for kind in ("lua", "html", "css", "js", "svg") for path in PACKAGE.rglob(f"*.{kind}")]
    shipped = {path.relative_to(ROOT).as_posix() for path in [*MODULES, *files, PACKAGE / "py.typed"]}

    assert {name for name in names if ".dist-info/" not in name} == shipped
    assert any(name.endswith(".lua") for name in shipped)


def tracked() -> list[Path]:
    """The files that belong to the repository, or would with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_package_index() -> None:
    """No file names the address of a package index: the user's own configuration decides where packages come from."""
    # In parts, so that this file does not hold them.
    forbidden = [b"py" + b"pi.", b"python" + b"hosted", b"index" + b"-url", b"extra" + b"-index", b"find" + b"-links"]
    files = tracked()
    found = [(path, word) for path in files for word in forbidden if word in path.read_bytes().lower()]

    assert files
    assert found == []


def test_scripts_can_be_run() -> None:
    """.ci/run is executable and runs the tests, the unit tests on the oldest dependencies, and the checks."""
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    commands = [line.split()[:2] for line in script.read_text().splitlines() if line.startswith("make")]
    assert commands == [["make", "test"], ["make", "test-versions"], ["make", "lint"]]


def test_the_main_module_is_the_command() -> None:
    """``python -m egregore_dist`` exists beside the console script."""
    assert importlib.util.find_spec("egregore_dist.__main__") is not None
