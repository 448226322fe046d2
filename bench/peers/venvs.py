"""A virtual environment for each peer, made once."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".venvs"
PLOTS = "plots"
PLOT_PACKAGES = ["matplotlib==3.11.2"]
SPY = "spy"
SPY_PACKAGES = ["py-spy==0.4.3"]
_INSTALL_TIMEOUT = 900.0
_VERSIONS = (
    "import json,sys\nfrom importlib import metadata\nprint(json.dumps({n: metadata.version(n) for n in sys.argv[1:]}))"
)


class NotInstalled(Exception):
    """Raised where a peer cannot be installed; the message says why."""


def python(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of the environment, which is made if it is not there with exactly these packages.

    Args:
        name: its folder; empty for the project's own environment.
        packages: what has to be in it, as pip takes it.

    Raises:
        NotInstalled: it cannot be.
    """
    if not name:
        return Path(sys.executable)
    folder = FOLDER / name
    interpreter, mark = folder / "bin" / "python", folder / ".installed"
    wanted = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()
    if interpreter.exists() and mark.exists() and mark.read_text() == wanted:
        return interpreter
    venv.create(folder, with_pip=True, clear=True)
    if packages:
        command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"pip did not end within {_INSTALL_TIMEOUT:.0f} s") from None
        if done.returncode:
            raise NotInstalled(_reason(done.stderr))
    mark.write_text(wanted)
    return interpreter


def versions(interpreter: Path, packages: Sequence[str]) -> dict[str, str]:
    """The versions of these packages in that environment."""
    command = [str(interpreter), "-c", _VERSIONS, *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _reason(said: str) -> str:
    """What pip says went wrong, without where it looked."""
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith("ERROR:")]
    return lines[-1].removeprefix("ERROR: ") if lines else "pip failed"
