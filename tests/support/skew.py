"""Processes whose wall clock is wrong, or jumps, by a small library that is loaded before libc."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("skew.c")


def missing() -> str:
    """Why clocks cannot be faked here, or ""."""
    return "" if shutil.which("cc") else "no C compiler (cc) is installed"


def build(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "skew.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


class Clock:
    """The wrong clock of some processes.

    Args:
        library: made by `build`.
        file: where it is kept how wrong it is.
        seconds: how far it is ahead.

    Attributes:
        env: what makes it a process's clock.
    """

    def __init__(self, library: Path, file: Path, seconds: int = 0) -> None:
        self._file = file
        self.env = {"LD_PRELOAD": str(library), "EGDTEST_CLOCK": str(file)}
        self._file.write_bytes(struct.pack("=q", seconds))

    def jump(self, seconds: int) -> None:
        """From now on it is so far ahead."""
        # In place: the processes have it mapped.
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))
